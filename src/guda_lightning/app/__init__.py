"""A local page that answers for any picture: its groups, and the picture without the first of them."""

"""The stages of an attribution: each one method of ``GudaTrainer``, each in a file of its name."""

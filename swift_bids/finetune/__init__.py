"""Fine-tuning: training the network on a column of participants.tsv, and how much that helps."""

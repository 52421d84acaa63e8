"""What is wrong, repeated or shared among the examples: a survey of all of them, a verdict on each, a report."""

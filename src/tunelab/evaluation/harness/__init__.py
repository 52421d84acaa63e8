"""lm-evaluation-harness (the extra `eval`) on a loaded model; nothing else imports it."""

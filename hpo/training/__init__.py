"""The torch side: a frozen base, kept warm, and the trials on it. Never imports optuna."""

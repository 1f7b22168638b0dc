"""What several test files share: keys made once, and pairs of the real machines joined in memory."""

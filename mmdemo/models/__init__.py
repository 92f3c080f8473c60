"""The two models this project is about, one page each."""

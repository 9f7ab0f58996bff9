"""Where does the memory live? Units whose ablation makes memorized examples less likely, and a test of locality."""

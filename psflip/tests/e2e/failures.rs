//! What may die or fail, and what then holds (F1 to F10, F12, V1).

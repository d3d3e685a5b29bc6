//! The house rules that the compiler cannot watch (to come).

//! Wherry.

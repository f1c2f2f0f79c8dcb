//! The front desk.
fn main() {}

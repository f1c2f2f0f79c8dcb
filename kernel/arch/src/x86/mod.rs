//! Formats of the x86-64 machine: words and tables as the manuals define them, tested on any host.

pub mod descriptor;
pub mod feature;
pub mod page;

//! Formats of the machine: words that hardware reads and writes, as plain data tested on any host.
//! Formats of the x86-64 machine: words and tables as the manuals define them, tested on any host.

pub mod apic_mode;
pub mod descriptor;
pub mod event;
pub mod feature;
pub mod font;
pub mod guest_software;
pub mod image;
pub mod mtrr;
pub mod optional;
pub mod page;
pub mod screen;
pub mod svm_controls;
pub mod svm_exit;
pub mod svm_state;
pub mod svm_vmcb;
pub mod vmx_controls;
pub mod vmx_fields;
pub mod vmx_nmi;
pub mod vmx_state;
pub mod vmx_store;

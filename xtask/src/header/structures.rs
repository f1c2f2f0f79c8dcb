//! The structures of `abi`, with the layout that the Rust compiler gave them.

use super::C;
use abi::TypedItem;
use abi::hip::{CpuDesc, GenericAddress, Header, IoapicDesc, MemDesc, Ours};
use abi::utcb::{Extended, Segment, StatePage};
use anyhow::Result;
use std::fmt::Write;
use std::mem::{offset_of, size_of};

/// A field: C type, name with dimension, offset.
struct Field {
    base: String,
    name: &'static str,
    dimension: String,
    offset: usize,
}

/// The type of a field, from the field itself.
fn field<S, T: C>(_: fn(&S) -> &T, name: &'static str, offset: usize) -> Field {
    Field { base: T::name(), name, dimension: T::dimension(), offset }
}

macro_rules! structure {
    ($out:expr, $rust:ident, $name:literal, $what:literal: $($field:ident)*) => {{
        // Does not compile when a field is missing.
        #[allow(dead_code, reason = "never called: the compiler looks at the pattern")]
        fn complete($rust { $($field: _),* }: $rust) {}
        let fields = [$(field(|s: &$rust| &s.$field, stringify!($field), offset_of!($rust, $field))),*];
        put($out, $name, $what, size_of::<$rust>(), &fields)?;
    }};
}

macro_rules! named {
    ($($rust:ident: $name:literal;)*) => {
        $(impl C for $rust {
            fn name() -> String {
                concat!("struct ", $name).to_string()
            }
        })*
    };
}

named! {
    GenericAddress: "hem_generic_address";
    Segment: "hem_segment";
    Extended: "hem_extended";
}

/// Writes all structures, each after those it contains.
pub fn write(out: &mut String) -> Result<()> {
    structure!(out, TypedItem, "hem_typed_item", "What a message moves (docs/spec/crd.md).":
        crd meta);
    structure!(out, Segment, "hem_segment", "A segment register in the state page.":
        selector ar limit base);
    structure!(out, Extended, "hem_extended", "Ours, at 0x2a0 of a state page (docs/spec/utcb.md).":
        dr dr6 debugctl pending_debug guest_linear instruction_error instruction_info raw_exit
        raw_info1 raw_info2 raw_int_info instruction_byte_count instruction_bytes reserved);
    structure!(out, StatePage, "hem_utcb",
        "The page of messages and of a virtual processor's state; on a page of its own (docs/spec/utcb.md).":
        items translate_window delegate_window tls mtd inst_len rip rflags intr_state actv_state
        intr_info intr_error vect_info vect_error rax rcx rdx rbx rsp rbp rsi rdi r8_r15 qual ctrl
        xcr0 cr0 cr2 cr3 cr4 pdpte cr8 efer pat star lstar fmask kernel_gs_base dr7 sysenter_cs
        sysenter_rsp sysenter_rip es cs ss ds fs gs ldtr tr gdtr idtr tsc_val tsc_off tsc_aux
        exc_bitmap tpr_threshold reserved0 eoi_bitmap vintr_status reserved1 cr0_mon cr4_mon
        spec_ctrl tsc_timeout exit_reason reserved2 extended rest);
    structure!(out, GenericAddress, "hem_generic_address", "An ACPI generic address.":
        space bit_width bit_offset access_size address);
    structure!(out, Header, "hem_hip", "The information page begins with this (docs/spec/hip.md).":
        signature checksum length cpu_offset cpu_size ioapic_offset ioapic_size mem_offset mem_size
        api_flg api_ver sel_num sel_exc sel_vmi num_user_vectors cfg_page cfg_utcb freq_tsc
        freq_bus pci_bus_start mcfg_base mcfg_size dmar_table hpet_base cap_vmx_sec_exec xsdt_rsdt
        pm1a_cnt pm1b_cnt bsp_lapic_svr bsp_lapic_lint0);
    structure!(out, CpuDesc, "hem_cpu_desc", "A processor; its place is its number.":
        flags thread core package acpi_id apic_id reserved);
    structure!(out, IoapicDesc, "hem_ioapic_desc", "An I/O APIC.": id version gsi_base base);
    structure!(out, MemDesc, "hem_mem_desc", "A range of physical memory.": addr size kind aux);
    structure!(out, Ours, "hem_ours", "Our block at HEM_HIP_OUR_BLOCK of the information page.":
        magic version vendor svm_revision svm_asids svm_features reserved0 cpu_signature cpus_online
        xcr0 last_call reserved1 reserved2);
    Ok(())
}

/// A structure and what C must find true of it.
fn put(out: &mut String, name: &str, what: &str, size: usize, fields: &[Field]) -> Result<()> {
    writeln!(out, "\n/* {what} */\nstruct {name} {{")?;
    for field in fields {
        writeln!(out, "    {} {}{};", field.base, field.name, field.dimension)?;
    }
    writeln!(out, "}};\nHEM_ASSERT(sizeof(struct {name}) == {size:#x}, \"size of {name}\");")?;
    for Field { name: field, offset, .. } in fields {
        writeln!(
            out,
            "HEM_ASSERT(offsetof(struct {name}, {field}) == {offset:#x}, \"{name}.{field}\");"
        )?;
    }
    Ok(())
}

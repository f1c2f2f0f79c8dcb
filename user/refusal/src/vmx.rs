//! Intel's rules about controls, control registers, flags and events (segments: `vmx_segments`).

use crate::{Findings, bit, canonical, valid_pat, vmx_segments};
use abi::utcb::StatePage;

const CONTROLS: &str = "SDM vol. 3, 27.2.1.1";
const EVENT: &str = "SDM vol. 3, 27.2.1.3";
const REGISTERS: &str = "SDM vol. 3, 27.3.1.1";
const TABLES: &str = "SDM vol. 3, 27.3.1.3";
const FLAGS: &str = "SDM vol. 3, 27.3.1.4";
const ACTIVITY: &str = "SDM vol. 3, 27.3.1.5";
const PDPTES: &str = "SDM vol. 3, 27.3.1.6";

const VALID: u32 = 1 << 31;
const ERROR_CODE: u32 = 1 << 11;

/// What is on its way into the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    None,
    External,
    Nmi,
    Other,
}

/// All of Intel's rules.
pub fn check(found: &mut Findings, page: &StatePage, physical_bits: u8) {
    let event = match page.intr_info {
        info if info & VALID == 0 => Event::None,
        info if info & 0x700 == 0 => Event::External,
        info if info & 0x700 == 0x200 => Event::Nmi,
        _ => Event::Other,
    };
    controls(found, page);
    injection(found, page);
    registers(found, page, physical_bits);
    vmx_segments::check(found, page);
    tables(found, page);
    flags(found, page, event);
    activity(found, page, event);
    pdptes(found, page, physical_bits);
}

fn controls(found: &mut Findings, page: &StatePage) {
    let [primary, secondary] = page.ctrl;
    let shadow = primary & 1 << 21 != 0;
    let c1 = u64::from(secondary);
    let needs = secondary & (1 << 4 | 1 << 8 | 1 << 9);
    let rule = "x2APIC mode, APIC registers and interrupt delivery need the TPR shadow";
    found.check(shadow || needs == 0, "ctrl[1]", c1, rule, CONTROLS);
    let rule = "APIC accesses and x2APIC mode exclude each other";
    found.check(secondary & 0x11 != 0x11, "ctrl[1]", c1, rule, CONTROLS);
    if shadow && secondary & 1 << 9 == 0 {
        let threshold = u64::from(page.tpr_threshold);
        let rule = "bits 31:4 are zero";
        found.check(threshold >> 4 == 0, "tpr_threshold", threshold, rule, CONTROLS);
    }
}

fn injection(found: &mut Findings, page: &StatePage) {
    let info = page.intr_info;
    if info & VALID == 0 {
        return;
    }
    let value = u64::from(info);
    let (kind, vector) = (info >> 8 & 7, info & 0xff);
    let mut rule = |holds, rule| found.check(holds, "intr_info", value, rule, EVENT);
    rule(kind != 1, "type 1 is reserved");
    rule(kind != 7 || vector == 0, "type 7 takes vector 0 only (monitor trap)");
    rule(kind != 2 || vector == 2, "an NMI has vector 2");
    rule(kind != 3 || vector <= 31, "a hardware exception has a vector up to 31");
    rule(info & 0x7fff_c000 == 0, "bits 30:14 are zero");
    let pushes = matches!(vector, 8 | 10..=14 | 17) && kind == 3;
    let protected = page.cr0 & bit::CR0_PE != 0;
    rule(info & ERROR_CODE == 0 || protected, "no error code in real mode");
    let told = info & ERROR_CODE != 0;
    rule(!told || pushes || vector == 21, "this event has no error code");
    rule(told || !pushes || !protected, "this exception has an error code");
    if told {
        let error = u64::from(page.intr_error);
        found.check(error >> 16 == 0, "intr_error", error, "bits 31:16 are zero", EVENT);
    }
    if matches!(kind, 4..=6) {
        let length = page.inst_len;
        let rule = "a software event needs an instruction length of 1 to 15";
        found.check((1..=15).contains(&length), "inst_len", length, rule, EVENT);
    }
}

fn registers(found: &mut Findings, page: &StatePage, physical_bits: u8) {
    let long = page.efer & bit::EFER_LMA != 0;
    let paging = page.cr0 & bit::CR0_PG != 0;
    let rule = "paging needs protected mode";
    found.check(!paging || page.cr0 & bit::CR0_PE != 0, "cr0", page.cr0, rule, REGISTERS);
    found.check(!long || paging, "cr0", page.cr0, "EFER.LMA needs paging", REGISTERS);
    let pae = page.cr4 & bit::CR4_PAE != 0;
    found.check(!long || pae, "cr4", page.cr4, "EFER.LMA needs PAE", REGISTERS);
    let pcid = page.cr4 & bit::CR4_PCIDE != 0;
    found.check(long || !pcid, "cr4", page.cr4, "PCIDE needs EFER.LMA", REGISTERS);
    let rule = "bits beyond the physical address are zero";
    found.check(page.cr3 >> physical_bits.min(63) == 0, "cr3", page.cr3, rule, REGISTERS);
    found.check(page.dr7 >> 32 == 0, "dr7", page.dr7, "bits 63:32 are zero", REGISTERS);
    for (name, value) in [("sysenter_rsp", page.sysenter_rsp), ("sysenter_rip", page.sysenter_rip)]
    {
        found.check(canonical(value), name, value, "canonical", REGISTERS);
    }
    found.check(valid_pat(page.pat), "pat", page.pat, "each byte a memory type", REGISTERS);
    let reserved = page.efer & !bit::EFER_KNOWN;
    found.check(reserved == 0, "efer", page.efer, "reserved bits are zero", REGISTERS);
    let enabled = page.efer & bit::EFER_LME != 0;
    let rule = "with paging LMA equals LME";
    found.check(!paging || long == enabled, "efer", page.efer, rule, REGISTERS);
}

fn tables(found: &mut Findings, page: &StatePage) {
    for (name, table) in [("gdtr", page.gdtr), ("idtr", page.idtr)] {
        found.check(canonical(table.base), name, table.base, "canonical base", TABLES);
        let limit = u64::from(table.limit);
        found.check(limit >> 16 == 0, name, limit, "limit bits 31:16 are zero", TABLES);
    }
}

fn flags(found: &mut Findings, page: &StatePage, event: Event) {
    let long = page.efer & bit::EFER_LMA != 0;
    let wide = long && page.cs.ar & 1 << 9 != 0;
    let rip = page.rip;
    if wide {
        found.check(canonical(rip), "rip", rip, "canonical in 64-bit mode", FLAGS);
    } else {
        found.check(rip >> 32 == 0, "rip", rip, "bits 63:32 zero outside 64-bit mode", FLAGS);
    }
    let flags = page.rflags;
    let reserved = flags & !0x3f_7fd7;
    found.check(reserved == 0, "rflags", flags, "bits 63:22, 15, 5 and 3 are zero", FLAGS);
    found.check(flags & 2 != 0, "rflags", flags, "bit 1 is set", FLAGS);
    let v86 = flags & bit::RFLAGS_VM != 0;
    let protected = page.cr0 & bit::CR0_PE != 0;
    let rule = "VM needs protected mode outside IA-32e mode";
    found.check(!v86 || !long && protected, "rflags", flags, rule, FLAGS);
    let enabled = flags & bit::RFLAGS_IF != 0;
    let rule = "an external interrupt needs IF";
    found.check(event != Event::External || enabled, "rflags", flags, rule, FLAGS);
}

fn activity(found: &mut Findings, page: &StatePage, event: Event) {
    let state = page.actv_state;
    let value = u64::from(state);
    found.check(state <= 3, "actv_state", value, "0 active, 1 HLT, 2 shutdown, 3 SIPI", ACTIVITY);
    let level = page.ss.ar >> 5 & 3;
    found.check(state != 1 || level == 0, "actv_state", value, "HLT needs level 0", ACTIVITY);
    let blocking = page.intr_state;
    let (sti, mov_ss) = (blocking & 1 != 0, blocking & 2 != 0);
    let rule = "blocking by STI or MOV SS needs the active state";
    found.check(state == 0 || !sti && !mov_ss, "actv_state", value, rule, ACTIVITY);
    let rule = "nothing can be injected while waiting for SIPI";
    found.check(state != 3 || event == Event::None, "actv_state", value, rule, ACTIVITY);
    let mut rule =
        |holds, rule| found.check(holds, "intr_state", u64::from(blocking), rule, ACTIVITY);
    rule(blocking >> 5 == 0, "bits 31:5 are zero");
    rule(!(sti && mov_ss), "STI and MOV SS do not block together");
    rule(!sti || page.rflags & bit::RFLAGS_IF != 0, "blocking by STI needs IF");
    let external = event == Event::External;
    rule(!external || !sti && !mov_ss, "an external interrupt needs no blocking");
    rule(event != Event::Nmi || !mov_ss, "an NMI needs no blocking by MOV SS");
    rule(event != Event::Nmi || blocking & 8 == 0, "an NMI needs no blocking by NMI");
    rule(blocking & 4 == 0, "no blocking by SMI outside SMM");
}

fn pdptes(found: &mut Findings, page: &StatePage, physical_bits: u8) {
    let pae = page.cr0 & bit::CR0_PG != 0 && page.cr4 & bit::CR4_PAE != 0;
    if !pae || page.efer & bit::EFER_LMA != 0 {
        return;
    }
    for pdpte in page.pdpte {
        let reserved = pdpte & 0x1e6 != 0 || pdpte >> physical_bits.min(63) != 0;
        let rule = "reserved bits of a present entry are zero";
        found.check(pdpte & 1 == 0 || !reserved, "pdpte", pdpte, rule, PDPTES);
    }
}

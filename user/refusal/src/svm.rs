//! AMD's rules: VMRUN refuses a guest that breaks one with exit code -1 (VMEXIT_INVALID).

use crate::{Findings, bit, valid_pat};
use abi::utcb::StatePage;

const SECTION: &str = "APM vol. 2, 15.5.1";
const EVENT: &str = "APM vol. 2, 15.20";
/// CR4 bits that some AMD processor has.
const CR4_KNOWN: u64 = 0x00f7_0fff & !(1 << 13);

/// All of AMD's rules that the state page can break.
pub fn check(found: &mut Findings, page: &StatePage, physical_bits: u8) {
    let (cr0, cr4, efer) = (page.cr0, page.cr4, page.efer);
    let rule = "NW without CD";
    found.check(cr0 & bit::CR0_NW == 0 || cr0 & bit::CR0_CD != 0, "cr0", cr0, rule, SECTION);
    found.check(cr0 >> 32 == 0, "cr0", cr0, "bits 63:32 are zero", SECTION);
    let long = efer & bit::EFER_LMA != 0;
    let limit = if long { physical_bits.min(63) } else { 63 };
    let rule = "bits beyond the physical address are zero";
    found.check(page.cr3 >> limit == 0, "cr3", page.cr3, rule, SECTION);
    found.check(cr4 & !CR4_KNOWN == 0, "cr4", cr4, "reserved bits are zero", SECTION);
    found.check(page.dr7 >> 32 == 0, "dr7", page.dr7, "bits 63:32 are zero", SECTION);
    let rule = "reserved bits are zero";
    found.check(efer & !(bit::EFER_KNOWN | 0x27_f000) == 0, "efer", efer, rule, SECTION);
    if efer & bit::EFER_LME != 0 && cr0 & bit::CR0_PG != 0 {
        let pae = cr4 & bit::CR4_PAE != 0;
        found.check(pae, "cr4", cr4, "long mode paging needs PAE", SECTION);
        let protected = cr0 & bit::CR0_PE != 0;
        found.check(protected, "cr0", cr0, "long mode paging needs PE", SECTION);
        let both = page.cs.ar >> 9 & 3 == 3;
        let rule = "64-bit code has D clear";
        found.check(!pae || !both, "cs", page.cs.ar.into(), rule, SECTION);
    }
    let rule = "paging needs protected mode";
    let good = cr0 & bit::CR0_PG == 0 || cr0 & bit::CR0_PE != 0;
    found.check(good, "cr0", cr0, rule, SECTION);
    let rule = "each byte a memory type";
    found.check(valid_pat(page.pat), "pat", page.pat, rule, "APM vol. 2, 15.25.4");
    event(found, page);
}

/// The kernel refuses reserved types itself (exit reason 253); these the hardware would.
fn event(found: &mut Findings, page: &StatePage) {
    let info = page.intr_info;
    if info & 1 << 31 == 0 {
        return;
    }
    let (kind, vector) = (info >> 8 & 7, info & 0xff);
    let mut rule = |holds, rule| found.check(holds, "intr_info", u64::from(info), rule, EVENT);
    rule(matches!(kind, 0 | 2..=6), "types 1 and 7 are reserved");
    rule(kind != 3 || vector <= 31, "an exception has a vector up to 31");
    rule(kind != 3 || vector != 2, "vector 2 is no exception");
    let overflow = page.efer & bit::EFER_LMA != 0 && page.cs.ar & 1 << 9 != 0 && vector == 4;
    rule(kind != 6 || !overflow, "no #OF in 64-bit mode");
}

//! Intel's rules about segment registers, for an unrestricted guest.

use crate::{Findings, bit, canonical};
use abi::utcb::{Segment, StatePage};

const SECTION: &str = "SDM vol. 3, 27.3.1.2";
const UNUSABLE: u16 = 1 << 12;
const LONG: u16 = 1 << 9;
const WIDE: u16 = 1 << 10;
const GRANULAR: u16 = 1 << 11;
const PRESENT: u16 = 1 << 7;
const SYSTEM: u16 = 1 << 4;

/// All rules about segments.
pub fn check(found: &mut Findings, page: &StatePage) {
    let v86 = page.rflags & bit::RFLAGS_VM != 0;
    let ordinary = [
        ("cs", page.cs),
        ("ss", page.ss),
        ("ds", page.ds),
        ("es", page.es),
        ("fs", page.fs),
        ("gs", page.gs),
    ];
    for (name, segment) in ordinary {
        if v86 {
            virtual_8086(found, name, segment);
        } else if name == "cs" || usable(segment) {
            descriptor(found, name, segment);
        }
    }
    if !v86 {
        code(found, page);
        stack(found, page);
        data(found, page);
    }
    system(found, page);
}

fn usable(segment: Segment) -> bool {
    segment.ar & UNUSABLE == 0
}

fn kind(segment: Segment) -> u16 {
    segment.ar & 0xf
}

fn level(segment: Segment) -> u16 {
    segment.ar >> 5 & 3
}

fn virtual_8086(found: &mut Findings, name: &'static str, segment: Segment) {
    let base = u64::from(segment.selector) << 4;
    let rule = "in virtual-8086 mode the base is the selector times 16";
    found.check(segment.base == base, name, segment.base, rule, SECTION);
    let rule = "in virtual-8086 mode the limit is 0xffff";
    found.check(segment.limit == 0xffff, name, segment.limit.into(), rule, SECTION);
    let rule = "in virtual-8086 mode the access rights are 0xf3";
    found.check(segment.ar == 0xf3, name, segment.ar.into(), rule, SECTION);
}

/// What holds for every usable segment.
fn descriptor(found: &mut Findings, name: &'static str, segment: Segment) {
    let ar = u64::from(segment.ar);
    if !matches!(name, "fs" | "gs" | "tr" | "ldtr") {
        let rule = "base bits 63:32 are zero";
        found.check(segment.base >> 32 == 0, name, segment.base, rule, SECTION);
    } else {
        found.check(canonical(segment.base), name, segment.base, "canonical base", SECTION);
    }
    found.check(segment.ar & PRESENT != 0, name, ar, "present", SECTION);
    let is_system = matches!(name, "tr" | "ldtr");
    let rule = "bit 4 is clear in TR and LDTR, set in the others";
    found.check((segment.ar & SYSTEM == 0) == is_system, name, ar, rule, SECTION);
    let granular = segment.ar & GRANULAR != 0;
    let limit = u64::from(segment.limit);
    let rule = "granularity is set if limit bits 31:20 are not all zero";
    found.check(granular || limit >> 20 == 0, name, limit, rule, SECTION);
    let rule = "granularity is clear if limit bits 11:0 are not all ones";
    found.check(!granular || limit & 0xfff == 0xfff, name, limit, rule, SECTION);
}

fn code(found: &mut Findings, page: &StatePage) {
    let ar = u64::from(page.cs.ar);
    let mut rule = |holds, rule| found.check(holds, "cs", ar, rule, SECTION);
    rule(usable(page.cs), "usable");
    rule(matches!(kind(page.cs), 3 | 9 | 11 | 13 | 15), "accessed code (or accessed data)");
    let (cs, ss) = (level(page.cs), level(page.ss));
    match kind(page.cs) {
        3 => rule(cs == 0, "a data segment as CS has level 0"),
        9 | 11 => rule(cs == ss, "the level equals that of SS"),
        13 | 15 => rule(cs <= ss, "the level of conforming code is at most that of SS"),
        _ => {}
    }
    let wide = page.efer & bit::EFER_LMA != 0 && page.cs.ar & LONG != 0;
    rule(!wide || page.cs.ar & WIDE == 0, "64-bit code has D clear");
}

fn stack(found: &mut Findings, page: &StatePage) {
    let ar = u64::from(page.ss.ar);
    if usable(page.ss) {
        let rule = "accessed writable data";
        found.check(matches!(kind(page.ss), 3 | 7), "ss", ar, rule, SECTION);
    }
    let real = page.cr0 & bit::CR0_PE == 0 || kind(page.cs) == 3;
    let rule = "level 0 in real mode and with data as CS";
    found.check(!real || level(page.ss) == 0, "ss", ar, rule, SECTION);
}

fn data(found: &mut Findings, page: &StatePage) {
    for (name, segment) in [("ds", page.ds), ("es", page.es), ("fs", page.fs), ("gs", page.gs)] {
        let ar = u64::from(segment.ar);
        let code = kind(segment) & 8 != 0;
        if usable(segment) {
            found.check(kind(segment) & 1 != 0, name, ar, "accessed", SECTION);
            found.check(!code || kind(segment) & 2 != 0, name, ar, "readable", SECTION);
        } else if matches!(name, "fs" | "gs") {
            found.check(canonical(segment.base), name, segment.base, "canonical base", SECTION);
        }
    }
}

fn system(found: &mut Findings, page: &StatePage) {
    let long = page.efer & bit::EFER_LMA != 0;
    let tr = page.tr;
    let rule = "usable";
    found.check(usable(tr), "tr", tr.ar.into(), rule, SECTION);
    let rule = "a busy task state: type 11, or 3 outside IA-32e mode";
    let good = kind(tr) == 11 || kind(tr) == 3 && !long;
    found.check(good, "tr", tr.ar.into(), rule, SECTION);
    let rule = "the selector is one of the GDT";
    found.check(tr.selector & 4 == 0, "tr", tr.selector.into(), rule, SECTION);
    descriptor(found, "tr", tr);
    let ldtr = page.ldtr;
    if usable(ldtr) {
        found.check(ldtr.selector & 4 == 0, "ldtr", ldtr.selector.into(), rule, SECTION);
        found.check(kind(ldtr) == 2, "ldtr", ldtr.ar.into(), "type 2", SECTION);
        descriptor(found, "ldtr", ldtr);
    }
}

//! A sane state breaks no rule; each change breaks the rule it should.

use super::*;
use abi::utcb::Segment;

/// 64-bit code at level 0, as a boot loader leaves it.
fn long_mode() -> StatePage {
    let data = Segment { selector: 0x10, ar: 0xc93, limit: 0xffff_ffff, base: 0 };
    StatePage {
        xcr0: 7,
        cr0: 0x8000_0031,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0xd01,
        pat: 0x0007_0406_0007_0406,
        dr7: 0x400,
        rflags: 2,
        rip: 0x10_0000,
        cs: Segment { selector: 8, ar: 0xa9b, ..data },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: Segment { selector: 0x18, ar: 0x08b, limit: 0x67, base: 0 },
        ldtr: Segment { ar: 0x1000, ..Segment::ZERO },
        gdtr: Segment { limit: 0x27, ..Segment::ZERO },
        ..StatePage::ZERO
    }
}

/// Real mode as after reset.
fn real_mode() -> StatePage {
    let data = Segment { selector: 0, ar: 0x93, limit: 0xffff, base: 0 };
    StatePage {
        xcr0: 1,
        cr0: 0x6000_0010,
        rflags: 2,
        rip: 0xfff0,
        pat: 0x0007_0406_0007_0406,
        cs: Segment { selector: 0xf000, ar: 0x9b, limit: 0xffff, base: 0xffff_0000 },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: Segment { ar: 0x8b, ..data },
        ldtr: Segment { ar: 0x82, ..data },
        ..StatePage::ZERO
    }
}

fn first(vendor: Vendor, page: &StatePage) -> Option<&'static str> {
    explain(vendor, page, 40).iter().next().map(|broken| broken.field)
}

#[test]
fn sane_states_break_nothing() {
    for page in [long_mode(), real_mode()] {
        for vendor in [Vendor::Vmx, Vendor::Svm] {
            let found = explain(vendor, &page, 40);
            assert!(found.is_empty(), "{vendor:?}: {}", found.iter().next().unwrap());
        }
    }
}

type Change = fn(&mut StatePage);

#[test]
fn each_change_names_its_field() {
    let changes: &[(Vendor, &str, Change)] = &[
        (Vendor::Vmx, "xcr0", |p| p.xcr0 = 0),
        (Vendor::Vmx, "xcr0", |p| p.xcr0 = 5),
        (Vendor::Vmx, "cr0", |p| p.cr0 &= !1),
        (Vendor::Vmx, "cr4", |p| p.cr4 = 0),
        (Vendor::Vmx, "cr3", |p| p.cr3 = 1 << 50),
        (Vendor::Vmx, "efer", |p| p.efer = 0xc01),
        (Vendor::Vmx, "pat", |p| p.pat = 2),
        (Vendor::Vmx, "dr7", |p| p.dr7 = 1 << 32),
        (Vendor::Vmx, "rflags", |p| p.rflags = 0),
        (Vendor::Vmx, "rflags", |p| p.rflags |= 8),
        (Vendor::Vmx, "rip", |p| p.rip = 1 << 60),
        (Vendor::Vmx, "cs", |p| p.cs.ar = 0xe9b),
        (Vendor::Vmx, "cs", |p| p.cs.ar = 0xafb),
        (Vendor::Vmx, "ss", |p| p.ss.ar = 0xc91),
        (Vendor::Vmx, "ds", |p| p.ds.ar = 0xc92),
        (Vendor::Vmx, "ds", |p| p.ds.limit = 0x1234_5678),
        (Vendor::Vmx, "gs", |p| p.gs.base = 1 << 60),
        (Vendor::Vmx, "tr", |p| p.tr.ar = 0x89),
        (Vendor::Vmx, "tr", |p| p.tr.ar |= 0x1000),
        (Vendor::Vmx, "ldtr", |p| p.ldtr.ar = 0x83),
        (Vendor::Vmx, "gdtr", |p| p.gdtr.limit = 0x1_0000),
        (Vendor::Vmx, "actv_state", |p| p.actv_state = 4),
        (Vendor::Vmx, "intr_state", |p| p.intr_state = 1),
        (Vendor::Vmx, "intr_info", |p| p.intr_info = 1 << 31 | 1 << 8),
        (Vendor::Vmx, "intr_info", |p| p.intr_info = 1 << 31 | 3 << 8 | 14),
        (Vendor::Vmx, "rflags", |p| p.intr_info = 1 << 31 | 0x30),
        (Vendor::Vmx, "inst_len", |p| p.intr_info = 1 << 31 | 4 << 8 | 0x80),
        (Vendor::Vmx, "ctrl[1]", |p| p.ctrl[1] = 1 << 9),
        (Vendor::Svm, "cr0", |p| p.cr0 |= 1 << 29),
        (Vendor::Svm, "cr4", |p| p.cr4 |= 1 << 13),
        (Vendor::Svm, "cr4", |p| p.cr4 = 0),
        (Vendor::Svm, "cs", |p| p.cs.ar = 0xe9b),
        (Vendor::Svm, "efer", |p| p.efer |= 2),
        (Vendor::Svm, "intr_info", |p| p.intr_info = 1 << 31 | 3 << 8 | 40),
    ];
    for (vendor, field, change) in changes {
        let mut page = long_mode();
        change(&mut page);
        let found = explain(*vendor, &page, 40);
        let told: Vec<_> = found.iter().map(|broken| broken.field).collect();
        assert_eq!(first(*vendor, &page), Some(*field), "{told:?}");
    }
}

#[test]
fn virtual_8086_has_its_own_segments() {
    let mut page = real_mode();
    page.cr0 = 0x11;
    page.rflags |= bit::RFLAGS_VM;
    let found = explain(Vendor::Vmx, &page, 40);
    assert!(found.iter().any(|broken| broken.rule.contains("virtual-8086")));
}

#[test]
fn reads_like_a_sentence() {
    let mut page = long_mode();
    page.rflags = 0;
    let found = explain(Vendor::Vmx, &page, 40);
    let text = found.iter().next().unwrap().to_string();
    assert_eq!(text, "rflags is 0x0: bit 1 is set (SDM vol. 3, 27.3.1.4)");
}

#[test]
fn any_words_are_explained_without_a_panic() {
    let mut x = 99_u64;
    let mut next = move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x ^ x >> 29
    };
    for _ in 0..20_000 {
        let mut segment = || Segment::decode([next(), next()]);
        let [cs, ss, ds, es, fs, gs, ldtr, tr, gdtr, idtr] = core::array::from_fn(|_| segment());
        let page = StatePage {
            xcr0: next(),
            cr0: next(),
            cr3: next(),
            cr4: next(),
            efer: next(),
            pat: next(),
            dr7: next(),
            rflags: next(),
            rip: next(),
            inst_len: next(),
            intr_info: next() as u32,
            intr_error: next() as u32,
            intr_state: next() as u32,
            actv_state: next() as u32,
            pdpte: [next(), next(), next(), next()],
            cs,
            ss,
            ds,
            es,
            fs,
            gs,
            ldtr,
            tr,
            gdtr,
            idtr,
            ..StatePage::ZERO
        };
        for vendor in [Vendor::Vmx, Vendor::Svm] {
            assert!(explain(vendor, &page, next() as u8).iter().count() <= MOST);
        }
    }
}

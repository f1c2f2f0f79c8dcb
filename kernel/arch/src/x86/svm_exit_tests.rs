//! Exit codes become the reasons and qualifications that VMX would give.

use super::*;
use abi::exit::INVALID_STATE;

fn report(raw: Raw) -> Report {
    match raw.meaning() {
        Meaning::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn simple_instructions() {
    for (code, reason) in
        [(0x72, 10), (0x78, 12), (0x81, 18), (0x8d, 55), (0x6e, 16), (0x76, 13), (0x89, 54)]
    {
        let raw = Raw { code, rip: 0x1000, next_rip: 0x1002, ..Raw::default() };
        let got = report(raw);
        assert_eq!((got.reason, got.length), (reason, 2));
        assert_eq!(report(Raw { next_rip: 0, ..raw }).length, 0);
    }
    assert_eq!(report(Raw { code: 0x7f, ..Raw::default() }).reason, 2);
    assert_eq!(report(Raw { code: 0x64, ..Raw::default() }).reason, 7);
}

#[test]
fn msr_direction() {
    assert_eq!(report(Raw { code: 0x7c, info1: 0, ..Raw::default() }).reason, 31);
    assert_eq!(report(Raw { code: 0x7c, info1: 1, ..Raw::default() }).reason, 32);
}

#[test]
fn ports_speak_vmx() {
    // in al, 0x3f8 (imm or dx), one byte on
    let raw =
        Raw { code: 0x7b, info1: 0x3f8 << 16 | 1 << 4 | 1, rip: 9, info2: 10, ..Raw::default() };
    let got = report(raw);
    assert_eq!((got.reason, got.qualification, got.length), (30, 0x3f8 << 16 | 8, 1));
    // rep outsd
    let raw = Raw { info1: 0x80 << 16 | 1 << 6 | 3 << 2, ..raw };
    assert_eq!(report(raw).qualification, 0x80 << 16 | 3 | 1 << 4 | 1 << 5);
}

#[test]
fn control_registers_with_and_without_assists() {
    let write_cr4 = Raw { code: 0x14, info1: 1 << 63 | 11, ..Raw::default() };
    assert_eq!(report(write_cr4).qualification, 4);
    let assisted = Raw { assists: true, ..write_cr4 };
    assert_eq!(report(assisted).qualification, 4 | 11 << 8);
    assert_eq!(report(Raw { code: 0x03, ..Raw::default() }).qualification, 3 | 1 << 4);
}

#[test]
fn nested_faults_speak_ept() {
    let base = Raw { code: 0x400, info2: 0xfee0_0020, info1: 1 << 32 | 4, ..Raw::default() };
    let got = report(base);
    assert_eq!((got.reason, got.qualification, got.address), (48, 1 | 1 << 8, 0xfee0_0020));
    assert_eq!(report(Raw { info1: 6, ..base }).qualification, 2);
    assert_eq!(report(Raw { info1: 0x17, ..base }).qualification, 4 | 8);
    assert_eq!(report(Raw { info1: 8, ..base }).reason, 49);
}

#[test]
fn exceptions_carry_error_code_and_address() {
    let raw = Raw { code: 0x4e, info1: 6, info2: 0x5000, ..Raw::default() };
    let got = report(raw);
    assert_eq!((got.reason, got.event, got.qualification), (0, (0x8000_0b0e, 6), 0x5000));
    assert_eq!(report(Raw { code: 0x43, ..raw }).event.0, 0x8000_0603);
    assert_eq!(report(Raw { code: 0x88, ..raw }).event.0, 0x8000_0501);
    assert_eq!(report(Raw { code: 0x46, ..raw }).event, (0x8000_0306, 0));
}

#[test]
fn interrupted_deliveries_are_told() {
    let raw = Raw { code: 0x400, int_info: 0x8000_0b0d | 5 << 32, ..Raw::default() };
    assert_eq!(report(raw).vectoring, (0x8000_0b0d, 5));
}

#[test]
fn refused_in_32_and_64_bits() {
    for code in [u64::MAX, 0xffff_ffff] {
        assert_eq!(report(Raw { code, ..Raw::default() }).reason, INVALID_STATE);
    }
}

#[test]
fn svm_instructions_are_undefined() {
    for code in [0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x7a] {
        assert_eq!(Raw { code, ..Raw::default() }.meaning(), Meaning::Undefined);
    }
}

#[test]
fn every_code_has_a_meaning() {
    let mut x = 3_u64;
    for code in (0..0x1000).chain([u64::MAX - 1, 1 << 32]) {
        for _ in 0..64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let y = x.rotate_left(29);
            let raw = Raw {
                code,
                info1: x,
                info2: y,
                int_info: x ^ y,
                rip: y,
                next_rip: y.wrapping_add(x & 31),
                dr6: x,
                assists: x & 1 == 0,
            };
            if let Meaning::Report(got) | Meaning::DebugRegister(got) = raw.meaning() {
                assert!(got.length <= 15 && got.reason != 1);
                if got.reason == UNKNOWN {
                    assert_eq!(got.qualification, code);
                }
            }
        }
    }
}

//! The controls keep what is forced and drop what is impossible, for any words.

use super::*;

/// Capability words as Bochs' corei7_skylake_x gives them, near enough.
pub(crate) fn skylake() -> Capabilities {
    Capabilities {
        pin: Allowed(0x0000_007f_0000_0016),
        primary: Allowed(0xfff9_fffe_0400_6172),
        secondary: Allowed(0x0017_7fff_0000_0000),
        exit: Allowed(0x01ff_ffff_0003_6dff),
        entry: Allowed(0x0003_ffff_0000_11ff),
        cr0_fixed: [0x8000_0021, 0xffff_ffff],
        cr4_fixed: [0x2000, 0x0037_67ff],
        ept_vpid: 0x0f01_0633_4141,
        misc: 5,
        basic: 0,
    }
}

fn words() -> impl Iterator<Item = u64> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    (0..100_000).map(move |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    })
}

#[test]
fn adjusting_obeys_the_capability_word() {
    let words: Vec<u64> = words().collect();
    for pair in words.chunks(2) {
        // A real word never requires what it does not allow.
        let allowed = Allowed(pair[0] | (pair[0] & 0xffff_ffff) << 32);
        let adjusted = allowed.adjust(pair[1] as u32);
        assert_eq!(adjusted & allowed.required(), allowed.required());
        assert_eq!(adjusted & !allowed.possible(), 0);
    }
}

#[test]
fn forced_bits_stay_whatever_is_asked() {
    let cpu = skylake();
    assert_eq!(cpu.missing(), None);
    for word in words() {
        let asked = word as u32;
        let p = cpu.primary_controls(asked, (word >> 32) as u32, word & 1 == 0);
        use primary::*;
        assert_eq!(p & (HLT | UNCONDITIONAL_IO | SECONDARY), HLT | UNCONDITIONAL_IO | SECONDARY);
        assert!(p & TPR_SHADOW != 0 || p & (CR8_LOAD | CR8_STORE) == CR8_LOAD | CR8_STORE);
        assert_eq!(p & INTERRUPT_WINDOW, (word >> 32) as u32 & INTERRUPT_WINDOW);
        assert!(word & 1 == 0 || p & IO_BITMAPS == 0);
        let s = cpu.secondary_controls(asked, true);
        let forced = secondary::EPT | secondary::UNRESTRICTED | secondary::VPID;
        assert_eq!(s & forced, forced);
        assert_eq!(s & secondary::NOT_GIVEN, 0);
    }
}

#[test]
fn hip_word_names_forced_and_allowed() {
    let word = skylake().hip_word();
    assert_eq!(word as u32, 0xa2);
    assert_eq!(word as u32 & (word >> 32) as u32, word as u32);
}

#[test]
fn missing_features_are_named() {
    let mut cpu = skylake();
    cpu.secondary = Allowed(0x0000_0041_0000_0000);
    assert_eq!(cpu.missing(), Some("VMX lacks EPT"));
    assert!(Capabilities::default().missing().is_some());
}

#[test]
fn control_registers_keep_fixed_bits() {
    let cpu = skylake();
    for view in words() {
        let real = cpu.real_cr0(view);
        assert_eq!(real & 0x20, 0x20, "NE");
        assert_eq!(real & CR0_CD_NW, 0);
        assert_eq!(real & !cpu.cr0_fixed[1], 0);
        assert_eq!(real & CR0_PE_PG, view & CR0_PE_PG);
        assert_eq!(guest_view(real, view, cpu.cr0_owned()), view);
        let real = cpu.real_cr4(view);
        assert_eq!(real & 0x2000, 0x2000, "VMXE");
        assert_eq!(real & !cpu.cr4_fixed[1], 0);
        assert_eq!(guest_view(real, view, cpu.cr4_owned()), view);
    }
}

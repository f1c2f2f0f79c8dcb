//! The guest's registers by number, as instructions name them.
use abi::utcb::StatePage;

/// Number of the stack pointer in instruction encodings.
pub const RSP: u8 = 4;

/// Register `number` (0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8 to 15), modulo 16.
pub fn get(page: &StatePage, number: u8) -> u64 {
    match number & 15 {
        0 => page.rax,
        1 => page.rcx,
        2 => page.rdx,
        3 => page.rbx,
        4 => page.rsp,
        5 => page.rbp,
        6 => page.rsi,
        7 => page.rdi,
        high => page.r8_r15.get(usize::from(high) - 8).copied().unwrap_or(0),
    }
}

/// Sets register `number`, modulo 16.
pub fn set(page: &mut StatePage, number: u8, value: u64) {
    match number & 15 {
        0 => page.rax = value,
        1 => page.rcx = value,
        2 => page.rdx = value,
        3 => page.rbx = value,
        4 => page.rsp = value,
        5 => page.rbp = value,
        6 => page.rsi = value,
        7 => page.rdi = value,
        high => {
            if let Some(slot) = page.r8_r15.get_mut(usize::from(high) - 8) {
                *slot = value;
            }
        }
    }
}

/// `old` with its low `size` bytes (1, 2, 4, 8) replaced as an instruction does: four bytes clear
/// the upper half.
pub fn merge(old: u64, size: u8, value: u64) -> u64 {
    match size {
        1 => (old & !0xff) | (value & 0xff),
        2 => (old & !0xffff) | (value & 0xffff),
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Whether the guest runs 64-bit code.
pub fn long_code(page: &StatePage) -> bool {
    page.efer & (1 << 10) != 0 && page.cs.ar & (1 << 9) != 0
}

/// Bytes of an address in the running code without an override: 2, 4 or 8.
pub fn address_size(page: &StatePage) -> u8 {
    if long_code(page) {
        8
    } else if page.cs.ar & (1 << 10) != 0 {
        4
    } else {
        2
    }
}

/// Linear address of the instruction that exited.
pub fn instruction_address(page: &StatePage) -> u64 {
    if long_code(page) { page.rip } else { page.cs.base.wrapping_add(page.rip) & 0xffff_ffff }
}

/// The paging registers.
pub fn paging(page: &StatePage) -> crate::walk::Paging {
    crate::walk::Paging { cr0: page.cr0, cr3: page.cr3, cr4: page.cr4, efer: page.efer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_registers() {
        let mut page = Box::new(StatePage::ZERO);
        for number in 0..16 {
            set(&mut page, number, u64::from(number) + 100);
        }
        for number in 0..16 {
            assert_eq!(get(&page, number), u64::from(number) + 100);
        }
        assert_eq!((page.rbx, page.rsp, page.r8_r15[7]), (103, 104, 115));
        assert_eq!(merge(u64::MAX, 4, 5), 5);
        assert_eq!(merge(u64::MAX, 2, 5), 0xffff_ffff_ffff_0005);
    }
}

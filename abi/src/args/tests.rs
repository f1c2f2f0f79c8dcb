//! Every argument structure comes back from its registers, and random words
//! decode to something that encodes to the same meaning.

use super::*;
use crate::call::Call;
use crate::crd::ItemMeta;
use crate::{Crd, Mtd};
use proptest::prelude::*;

/// `decode` is total, keeps what `encode` wrote, and `encode` names the call.
macro_rules! stable {
    ($($name:ident: $args:ty, $call:expr;)*) => {
        proptest! {
            $(
                #[test]
                fn $name(words: [u64; 5]) {
                    let args = <$args>::decode(words);
                    let again = args.encode();
                    prop_assert_eq!(Call::from_word(again[0]), Ok($call));
                    prop_assert_eq!(<$args>::decode(again), args);
                }
            )*
        }
    };
}

stable! {
    call_portal: CallPortal, Call::Call;
    reply: Reply, Call::Reply;
    create_pd: CreatePd, Call::CreatePd;
    create_ec: CreateEc, Call::CreateEc;
    create_sc: CreateSc, Call::CreateSc;
    create_pt: CreatePt, Call::CreatePt;
    create_sm: CreateSm, Call::CreateSm;
    revoke: Revoke, Call::Revoke;
    pd_ctrl: PdCtrl, Call::PdCtrl;
    ec_ctrl: EcCtrl, Call::EcCtrl;
    sc_ctrl: ScCtrl, Call::ScCtrl;
    pt_ctrl: PtCtrl, Call::PtCtrl;
    sm_ctrl: SmCtrl, Call::SmCtrl;
    assign_pci: AssignPci, Call::AssignPci;
    machine_ctrl: MachineCtrl, Call::MachineCtrl;
    create_kp: CreateKp, Call::CreateKp;
    kp_ctrl: KpCtrl, Call::KpCtrl;
    irq_ctrl: IrqCtrl, Call::IrqCtrl;
    create_vcpu: CreateVcpu, Call::CreateVcpu;
    vcpu_ctrl: VcpuCtrl, Call::VcpuCtrl;
    vcpu_run_ext: VcpuRunExt, Call::VcpuRunExt;
}

#[test]
fn words_of_the_specification() {
    let delegate = PdCtrl::Delegate {
        source: 32,
        destination: 32,
        crd: Crd::memory(0x1234, 3, 7),
        meta: (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(0x55),
        window: Crd::ALL_MEMORY,
    };
    assert_eq!(
        delegate.encode(),
        [
            8 | 2 << 8 | 32 << 12,
            32,
            1 | 7 << 2 | 3 << 7 | 0x1234 << 12,
            1 | 0x800 | 0x55 << 12,
            1 | 0x1f << 2 | 31 << 7,
        ]
    );
    let ec = CreateEc {
        sel: 40,
        global: true,
        reserved: 0,
        utcb_in_caller: true,
        pd: 32,
        cpu: 1,
        utcb: 0x5000,
        stack: 0x6000,
        event_base: 64,
    };
    assert_eq!(ec.encode(), [3 | 1 << 8 | 1 << 11 | 40 << 12, 32, 0x5001, 0x6000, 64]);
    let sc = CreateSc { sel: 41, owner: 32, ec: 40, priority: 5, quantum_us: 10_000 };
    assert_eq!(sc.encode(), [4 | 41 << 12, 32, 40, 5 | 10_000 << 12, 0]);
    let pt = CreatePt { sel: 42, owner: 32, ec: 40, mtd: Mtd::RSP, entry: 0x40_0000 };
    assert_eq!(pt.encode(), [5 | 42 << 12, 32, 40, 4, 0x40_0000]);
    let pin = IrqCtrl::AssignIoapicPin {
        vector: 7,
        cpu: 2,
        level: true,
        active_low: true,
        ioapic: 3,
        pin: 9,
    };
    assert_eq!(pin.encode(), [18 | 1 << 8 | 7 << 12 | 2 << 20 | 3 << 36, 3 | 9 << 4, 0, 0, 0]);
    let down = SmCtrl::Down { sm: 5, zero: true, deadline: 0x1_0000_0002 };
    assert_eq!(down.encode(), [12 | 3 << 8 | 5 << 12, 1, 2, 0, 0]);
    assert_eq!(SmCtrl::decode([12 | 3 << 8 | 5 << 12, 0, 0x1_0000_0002, 0, 0]), down);
    let vcpu = CreateVcpu { sel: 50, cpu: 1, parent: 32, state: 51, vlapic: 52, fpu: 53 };
    assert_eq!(vcpu.encode(), [19 | 50 << 12, 1 | 32 << 12, 51, 52, 53]);
    let msr = PdCtrl::MsrAccess { write: true, msr: 0x10, value: 9 };
    assert_eq!(msr.encode(), [8 | 7 << 8 | 0x10 << 12, 9, 0, 0, 0]);
    let revoke = Revoke { own: true, remote: true, crd: Crd::ALL_PORTS, pd: 60 };
    assert_eq!(revoke.encode(), [7 | 3 << 8, Crd::ALL_PORTS.0, 60, 0, 0]);
}

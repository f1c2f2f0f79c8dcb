//! Making objects and destroying them.

use crate::setup::{ALL, Bench, PD, drop_own};
use crate::sheet::{ROUNDS, pair};
use abi::args::{CreateEc, CreateKp, CreatePd, CreatePt, CreateSm, CreateVcpu, Words};
use abi::{Crd, Mtd, Status};
use rt::memory::reserve_page;
use rt::{calls, selectors};

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    let sel = selectors::allocate();
    let rows = |make: &str, end: &str, words: Words| {
        pair(ROUNDS, (make, words), (end, drop_own(Crd::objects(sel, 0, ALL))));
    };
    let pd = CreatePd { sel, passthrough: false, parent: PD, crd: Crd::NULL };
    rows("create_pd", "destroy_pd", pd.encode());
    let ec = CreateEc { sel, ..bench.ec(PD) };
    rows("create_ec_local", "destroy_ec_local", ec.encode());
    let with_page = CreateEc { utcb: reserve_page()?, ..ec };
    rows("create_ec_local_utcb", "destroy_ec_local_utcb", with_page.encode());
    rows("create_ec_global", "destroy_ec_global", CreateEc { global: true, ..ec }.encode());
    let servant = selectors::allocate();
    calls::create_ec(&CreateEc { sel: servant, ..ec })?;
    let pt = CreatePt { sel, owner: PD, ec: servant, mtd: Mtd::NONE, entry: 0x1000 };
    rows("create_pt", "destroy_pt", pt.encode());
    rows("create_sm", "destroy_sm", CreateSm { sel, owner: PD, count: 0 }.encode());
    rows("create_kp", "destroy_kp", CreateKp { sel, owner: PD }.encode());
    let kps = [selectors::allocate(), selectors::allocate(), selectors::allocate()];
    for kp in kps {
        calls::create_kp(kp, PD)?;
    }
    let [state, vlapic, fpu] = kps;
    let vcpu = CreateVcpu { sel, cpu: bench.cpu, parent: PD, state, vlapic, fpu };
    rows("create_vcpu", "destroy_vcpu", vcpu.encode());
    Ok(())
}

//! What does not fit the machine's memory, with exact words: RAM and what may differ from the modules of disks.

use super::tests::{GOOD, judged_text};

/// A guest that takes all of the 100 MiB, and a disk for it, from line 22 on.
fn all_and(disk: &str) -> String {
    let ram = "size = <0x0 0x2000000>;\n                };";
    let all = "size = <0x0 0x6400000>;\n                };\n";
    GOOD.replacen(ram, &format!("{all}{disk}"), 1)
}

#[test]
fn the_changes_of_disks_count() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let block = "d {\n type = \"virtual\"; model = \"virtio-block\";\n guest-address = <0 0xfed00000>; interrupt = <16>;\n module = \"initrd\";\n };";
    let ata = "d {\n type = \"virtual\";\n model = \"ata\";\n module = \"initrd\";\n };";
    let few = |disk: &str| {
        disk.replace("module = \"initrd\";", "module = \"initrd\"; changes = <0 0x1000>;")
    };
    let said = |number, disk: &str| judged_text(number, &all_and(disk), "", "");
    assert_eq!(said(1400, ""), "fine");
    let place = "manifest: FILE:25: /guests/one/aspace/d: changes of initrd: up to";
    // A module of 1 MiB, four bytes for each of its blocks, in whole pages; then one block.
    for (number, disk) in [(1401, block), (1402, ata)] {
        assert_eq!(said(number, disk), format!("{place} 1028 KiB, and the machine has 0 KiB left"));
        let words = format!("{place} 8 KiB, and the machine has 0 KiB left");
        assert_eq!(said(number + 10, &few(disk)), words);
        let less = all_and(disk).replacen("0x6400000", "0x6200000", 1);
        assert_eq!(judged_text(number + 20, &less, "", ""), "fine");
    }
}

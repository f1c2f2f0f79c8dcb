//! The refusals of virtual devices, each with its exact words.

use super::tests::{GOOD, judged_text};

/// Devices for it, from line 22 on.
const DEVICES: &str = r#"
                disk@fed00000 {
                    type = "virtual";
                    model = "virtio-block";
                    guest-address = <0x0 0xfed00000>;
                    interrupt = <16>;
                    module = "initrd";
                    changes = <0x0 0x1000>;
                };
                net {
                    type = "virtual";
                    model = "virtio-net";
                    guest-address = <0x0 0xfed01000>;
                    interrupt = <17>;
                    switch = "lan";
                    mac = [02 00 00 00 00 01];
                };"#;

/// One console too many, and the beginning of what they replace.
const CONSOLES: &str = r#"                a { type = "virtual"; model = "virtio-console"; guest-address = <0 0xfed02000>; interrupt = <18>; };
                b { type = "virtual"; model = "virtio-console"; guest-address = <0 0xfed03000>; interrupt = <19>; };
                net {"#;

/// An ATA disk before them.
const ATA: &str = "disk@1f0 { type = \"virtual\"; model = \"ata\"; module = \"initrd\"; };";

#[test]
fn each_refusal_of_a_device_names_file_line_and_reason() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let ram = "size = <0x0 0x2000000>;\n                };";
    let good = GOOD.replacen(ram, &format!("{ram}{DEVICES}"), 1);
    let disk = "/guests/one/aspace/disk@fed00000";
    let net = "/guests/one/aspace/net";
    let cases: &[(&str, &str, &str)] = &[
        ("", "", "fine"),
        ("                    changes = <0x0 0x1000>;\n", "", "fine"),
        ("disk@fed00000", "disk", "fine"),
        ("\"virtual\"", "\"virtaul\"", "22: DISK: unknown node"),
        (
            "disk@fed00000 {",
            "di.sk {",
            "22: /guests/one/aspace/di.sk: a name is 1 to 15 of 0-9 A-Z a-z _ -",
        ),
        ("model = \"virtio-block\";", "", "22: DISK: model is missing"),
        (
            "\"virtio-block\"",
            "\"virtio-scsi\"",
            "24: DISK: model is \"virtio-scsi\", not virtio-block, virtio-net, virtio-console or ata",
        ),
        ("\"virtio-block\"", "\"virtio-net\"", "27: DISK: unknown property module"),
        ("guest-address = <0x0 0xfed00000>;", "", "22: DISK: guest-address is missing"),
        (
            "<0x0 0xfed00000>",
            "<0x0 0xfed00800>",
            "25: DISK: guest-address 0xfed00800 is not a page from 0xfed00000 to 0xfee00000",
        ),
        (
            "<0x0 0xfed00000>",
            "<0x0 0xfee00000>",
            "25: DISK: guest-address 0xfee00000 is not a page from 0xfed00000 to 0xfee00000",
        ),
        (
            "<0x0 0xfed00000>",
            "<0x0 0xfed02000>",
            "25: DISK: the node's name says fed00000, its guest-address fed02000",
        ),
        ("interrupt = <16>;", "", "22: DISK: interrupt is missing"),
        ("interrupt = <16>", "interrupt = <15>", "26: DISK: interrupt is 15, not 16 to 23"),
        ("interrupt = <16>", "interrupt = <24>", "26: DISK: interrupt is 24, not 16 to 23"),
        ("module = \"initrd\";", "", "22: DISK: module is missing"),
        (
            "module = \"initrd\"",
            "module = \"image\"",
            "27: DISK: there is no module image: --module FILE:image",
        ),
        ("changes = <0x0 0x1000>", "changes = <1>", "28: DISK: changes is not 2 cell(s)"),
        ("<0x0 0xfed01000>", "<0x0 0xfed00000>", "33: NET: guest-address is that of disk@fed00000"),
        ("interrupt = <17>", "interrupt = <16>", "34: NET: interrupt is that of disk@fed00000"),
        ("switch = \"lan\";", "", "30: NET: switch is missing"),
        (
            "\"lan\"",
            "\"the lan\"",
            "35: NET: switch is \"the lan\"; a name is 1 to 15 of 0-9 A-Z a-z _ -",
        ),
        ("mac = [02 00 00 00 00 01];", "", "30: NET: mac is missing"),
        (
            "[02 00 00 00 00 01]",
            "[03 00 00 00 00 01]",
            "36: NET: mac is not six bytes of one station, as [02 00 00 00 00 01]",
        ),
        (
            "[02 00 00 00 00 01]",
            "[02 00 00 00 01]",
            "36: NET: mac is not six bytes of one station, as [02 00 00 00 00 01]",
        ),
        ("switch = \"lan\"", "module = \"kernel\"", "35: NET: unknown property module"),
        ("                net {", CONSOLES, "31: /guests/one/aspace/b: a second virtio-console"),
    ];
    for (number, (from, to, wanted)) in (910..).zip(cases) {
        let wanted = wanted.replace("DISK", disk).replace("NET", net);
        let wanted = if wanted == "fine" { wanted } else { format!("manifest: FILE:{wanted}") };
        assert_eq!(judged_text(number, &good, from, to), wanted, "{from} -> {to}");
    }
    let with_ata = good.replacen("net {", &format!("{ATA} net {{"), 1);
    for (number, (from, to, wanted)) in (940..).zip([
        ("", "", "fine"),
        ("disk@1f0", "disk", "fine"),
        ("model = \"ata\";", "model = \"ata\"; changes = <0 0x1000>;", "fine"),
        ("model = \"ata\"; module = \"initrd\";", "model = \"ata\";", "ATA: module is missing"),
        (
            "disk@1f0",
            "disk@170",
            "/guests/one/aspace/disk@170: the node's name says 170, its ports begin at 1f0",
        ),
        (
            "model = \"ata\";",
            "model = \"ata\"; interrupt = <14>;",
            "ATA: unknown property interrupt",
        ),
        ("model = \"ata\";", "model = \"ata\"; changes = <1>;", "ATA: changes is not 2 cell(s)"),
        (
            "\"ata\"; module = \"initrd\"",
            "\"ata\"; module = \"image\"",
            "ATA: there is no module image: --module FILE:image",
        ),
        (
            ATA,
            &format!("{ATA} {}", ATA.replace("disk@1f0", "other")),
            "/guests/one/aspace/other: a second ata",
        ),
    ]) {
        let wanted = wanted.replace("ATA", "/guests/one/aspace/disk@1f0");
        let wanted = if wanted == "fine" { wanted } else { format!("manifest: FILE:30: {wanted}") };
        assert_eq!(judged_text(number, &with_ata, from, to), wanted, "{from} -> {to}");
    }
    // Two guests in one switch with one address, and too many ports.
    let guest = good.split_once("        one {").unwrap().1.split_once("\n        };").unwrap().0;
    let another = |name: &str, mac: &str| {
        let guest = guest.replace("00 00 01]", mac).replace("autostart;", "");
        format!("        {name} {{{guest}\n        }};\n")
    };
    let place = "        one {";
    let two = format!("{}{place}", another("two", "00 00 01]"));
    let said = judged_text(960, &good, place, &two);
    assert_eq!(
        said,
        "manifest: FILE:76: NET: another port of switch lan has this mac".replace("NET", net)
    );
    let many: String =
        (2..10).map(|n| another(&format!("g{n}"), &format!("00 00 0{n}]"))).collect();
    let said = judged_text(961, &good, place, &format!("{many}{place}"));
    assert!(said.ends_with("switch lan has more than 8 ports"), "{said}");
}

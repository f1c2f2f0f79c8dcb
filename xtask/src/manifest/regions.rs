//! The refusals of real regions besides RAM, each with its exact words.

use super::tests::{GOOD, judged_text};

/// Regions for it, from line 22 on.
const REGIONS: &str = r#"
                bios@fff00000 {
                    type = "real";
                    kind = "rom";
                    guest-address = <0x0 0xfff00000>;
                    size = <0x0 0x100000>;
                    module = "initrd";
                };
                mailbox {
                    type = "real";
                    kind = "shared";
                    guest-address = <0x0 0xd0000000>;
                    size = <0x0 0x10000>;
                    shared = "letters";
                    access = "read-write";
                };"#;

/// What stands before the guest, and the words in the other's regions that are its own.
const PLACE: &str = "        one {";
const NAME: &str = "shared = \"letters\"";
const ADDRESS: &str = "guest-address = <0x0 0xd0000000>";

/// The good guest with regions, and behind it another with whom it shares memory, changed in one word.
fn good(from: &str, to: &str) -> String {
    let ram = "size = <0x0 0x2000000>;\n                };";
    let good = GOOD.replacen(ram, &format!("{ram}{REGIONS}"), 1);
    let guest = good.split_once(PLACE).unwrap().1.split_once("\n        };").unwrap().0.to_string();
    assert!(guest.contains(from), "{from}");
    let other = guest.replacen(from, to, 1).replace("autostart;", "");
    good.replace(
        "        };\n    };\n};",
        &format!("        }};\n        two {{{other}\n        }};\n    }};\n}};"),
    )
}

#[test]
fn each_refusal_of_a_region_names_file_line_and_reason() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let (rom, shared) = ("/guests/one/aspace/bios@fff00000", "/guests/one/aspace/mailbox");
    let high = "image {";
    let high_ram = "ram@100000000 { type = \"real\"; kind = \"ram\"; guest-address = <1 0>; size = <0 0x200000>; }; }; image {";
    let cases: &[(&str, &str, &str)] = &[
        ("", "", "fine"),
        ("bios@fff00000", "bios", "fine"),
        ("kind = \"rom\";", "", "22: ROM: kind is missing"),
        (
            "\"rom\"",
            "\"rmo\"",
            "24: ROM: kind is \"rmo\", not ram, rom, shared, host-memory or host-ports",
        ),
        (
            "bios@fff00000",
            "bi.os",
            "22: /guests/one/aspace/bi.os: a name is 1 to 15 of 0-9 A-Z a-z _ -",
        ),
        ("guest-address = <0x0 0xfff00000>;", "", "22: ROM: guest-address is missing"),
        (
            "<0x0 0xfff00000>",
            "<0x0 0xfff00800>",
            "25: ROM: guest-address 0xfff00800 is not a page from 1 MiB to 64 GiB",
        ),
        (
            "<0x0 0xfff00000>",
            "<0x0 0xc0000>",
            "25: ROM: guest-address 0xc0000 is not a page from 1 MiB to 64 GiB",
        ),
        (
            "<0x0 0xfff00000>",
            "<0xf 0xfff80000>",
            "25: ROM: guest-address 0xffff80000 is not a page from 1 MiB to 64 GiB",
        ),
        (
            "<0x0 0xfff00000>",
            "<0x0 0xffe00000>",
            "25: ROM: the node's name says fff00000, its guest-address ffe00000",
        ),
        ("size = <0x0 0x100000>;", "", "22: ROM: size is missing"),
        (
            "size = <0x0 0x100000>",
            "size = <0x0 0x100800>",
            "26: ROM: size 0x100800 is not a multiple of 4 KiB, 4 KiB to 256 MiB",
        ),
        (
            "size = <0x0 0x100000>",
            "size = <0x0 0x0>",
            "26: ROM: size 0x0 is not a multiple of 4 KiB, 4 KiB to 256 MiB",
        ),
        (
            "size = <0x0 0x100000>",
            "size = <0x0 0x10001000>",
            "26: ROM: size 0x10001000 is not a multiple of 4 KiB, 4 KiB to 256 MiB",
        ),
        (
            "size = <0x0 0x100000>",
            "size = <0x0 0x80000>",
            "26: ROM: size is 0x80000, but initrd has 1048576 bytes, 0x100000 in whole pages",
        ),
        ("module = \"initrd\";", "", "22: ROM: module is missing"),
        (
            "module = \"initrd\"",
            "module = \"a/b\"",
            "27: ROM: module is \"a/b\"; a module's name is 1 to 31 of a-z A-Z 0-9 . _ -",
        ),
        (
            "module = \"initrd\"",
            "module = \"image\"",
            "27: ROM: there is no module image: --module FILE:image",
        ),
        ("module = \"initrd\"", "access = \"read-only\"", "27: ROM: unknown property access"),
        (
            ADDRESS,
            "guest-address = <0x0 0x1fff000>",
            "32: SHARED: guest-address 0x1fff000 to 0x200f000 overlaps ram@0",
        ),
        (ADDRESS, "guest-address = <0x0 0x2000000>", "fine"),
        (
            ADDRESS,
            "guest-address = <0x0 0xfebff000>",
            "32: SHARED: guest-address 0xfebff000 to 0xfec0f000 overlaps the board's devices",
        ),
        (
            ADDRESS,
            "guest-address = <0x0 0xfeeff000>",
            "32: SHARED: guest-address 0xfeeff000 to 0xfef0f000 overlaps the board's devices",
        ),
        (
            ADDRESS,
            "guest-address = <0x0 0xfff10000>",
            "32: SHARED: guest-address 0xfff10000 to 0xfff20000 overlaps bios@fff00000",
        ),
        (
            NAME,
            "shared = \"the letters\"",
            "34: SHARED: shared is \"the letters\"; a name is 1 to 15 of 0-9 A-Z a-z _ -",
        ),
        ("shared = \"letters\";", "", "29: SHARED: shared is missing"),
        (
            NAME,
            "shared = \"postcards\"",
            "34: SHARED: no other guest names the shared memory postcards",
        ),
        ("access = \"read-write\";", "", "29: SHARED: access is missing"),
        (
            "\"read-write\"",
            "\"write\"",
            "35: SHARED: access is \"write\", not read-only or read-write",
        ),
        ("\"read-write\"", "\"read-only\"", "fine"),
        (
            "size = <0x0 0x10000>",
            "size = <0x0 0x8000>",
            "33: SHARED: size is 0x8000, but 0x10000 for two, who shares it",
        ),
        (
            "size = <0x0 0x10000>",
            "size = <0x0 0x6000000>",
            "33: SHARED: size is 0x6000000, but 0x10000 for two, who shares it",
        ),
        (
            "mailbox {",
            "again { type = \"real\"; kind = \"shared\"; guest-address = <0 0xe0000000>; size = <0 0x10000>; shared = \"letters\"; access = \"read-only\"; };\nmailbox {",
            "35: SHARED: a second region of the shared memory letters",
        ),
    ];
    let text = good(NAME, NAME);
    for (number, (from, to, wanted)) in (1000..).zip(cases) {
        let wanted =
            wanted.replace("ROM:", &format!("{rom}:")).replace("SHARED:", &format!("{shared}:"));
        let wanted = if wanted == "fine" { wanted } else { format!("manifest: FILE:{wanted}") };
        assert_eq!(judged_text(number, &text, from, to), wanted, "{from} -> {to}");
    }
    // RAM above the hole, too.
    let above = text.replacen(ADDRESS, "guest-address = <0x1 0x100000>", 1);
    assert_eq!(judged_text(1100, &above, "", ""), "fine");
    let above = above.replacen("            };\n            image {", high_ram, 1);
    assert_eq!(
        judged_text(1101, &above, high, high),
        format!(
            "manifest: FILE:32: {shared}: guest-address 0x100100000 to 0x100110000 overlaps ram@100000000"
        )
    );
}

#[test]
fn shared_memory_counts_once_and_regions_are_few() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let both = good(NAME, NAME).replace("size = <0x0 0x10000>", "size = <0x0 0x4000000>");
    // 64 MiB and one guest of 32 MiB are less than 100 MiB; the other starts from the console, alone.
    assert_eq!(
        judged_text(1110, &both, "", ""),
        "manifest: FILE:59: /guests/two/aspace/ram@0: size: 32 MiB, and the machine has 4 MiB left"
    );
    assert_eq!(judged_text(1111, &both, "autostart;", ""), "fine");
    let large = both.replace("0x4000000>", "0x7000000>");
    assert_eq!(
        judged_text(1112, &large, "", ""),
        "manifest: FILE:33: /guests/one/aspace/mailbox: size: 114688 KiB, and the machine has 102400 KiB left"
    );
    let more: String = (0..7)
        .map(|n| {
            format!("r{n} {{ type = \"real\"; kind = \"rom\"; guest-address = <0 0xe0{n}00000>; size = <0 0x100000>; module = \"kernel\"; }};\n")
        })
        .collect();
    let many = good(NAME, NAME);
    assert_eq!(
        judged_text(1113, &many, "mailbox {", &format!("{more}mailbox {{")),
        "manifest: FILE:36: /guests/one/aspace/mailbox: more than 8 regions besides RAM"
    );
}

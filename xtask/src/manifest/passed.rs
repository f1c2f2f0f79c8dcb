//! The refusals of what a guest gets of the machine, each with its exact words.

use super::tests::{GOOD, judged_text};

/// Memory and ports of the machine for it, from line 22 on.
const PASSED: &str = r#"
                timer@d0000000 {
                    type = "real";
                    kind = "host-memory";
                    guest-address = <0x0 0xd0000000>;
                    size = <0x0 0x1000>;
                    host-address = <0x0 0xfe000000>;
                    access = "read-write";
                    dma = "none";
                };
                debug@402 {
                    type = "real";
                    kind = "host-ports";
                    ports = <0x402 2>;
                    dma = "none";
                };"#;

fn good() -> String {
    let ram = "size = <0x0 0x2000000>;\n                };";
    GOOD.replacen(ram, &format!("{ram}{PASSED}"), 1)
}

#[test]
fn each_refusal_of_what_is_passed_through_names_file_line_and_reason() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let (memory, ports) = ("/guests/one/aspace/timer@d0000000", "/guests/one/aspace/debug@402");
    let unit = |ports: &str| {
        format!(
            "debug {{ type = \"real\"; kind = \"host-ports\"; {ports} dma = \"none\"; }};\nother@402 {{"
        )
    };
    let bad = "PORTS: ports is not the first port and how many, inside 0 to 0xffff";
    let iommu = "which can do DMA, and there is no IOMMU driver; dma = \"reaches-all-memory\" would allow it";
    let cases: &[(&str, &str, &str)] = &[
        ("", "", "fine"),
        ("debug@402 {", "debug {", "fine"),
        (
            "\"host-memory\"",
            "\"host-memroy\"",
            "24: MEMORY: kind is \"host-memroy\", not ram, rom, shared, host-memory or host-ports",
        ),
        ("host-address = <0x0 0xfe000000>;", "", "22: MEMORY: host-address is missing"),
        (
            "<0x0 0xfe000000>",
            "<0x0 0xfe000800>",
            "27: MEMORY: host-address 0xfe000800 is not a page below 0x10000000000000",
        ),
        (
            "<0x0 0xfe000000>",
            "<0x100000 0x0>",
            "27: MEMORY: host-address 0x10000000000000 is not a page below 0x10000000000000",
        ),
        (
            "<0x0 0xfe000000>",
            "<0x0 0xfec00000>",
            "27: MEMORY: host-address 0xfec00000 to 0xfec01000 is the interrupt controllers'",
        ),
        (
            "<0x0 0xfe000000>",
            "<0x0 0xfeeff000>",
            "27: MEMORY: host-address 0xfeeff000 to 0xfef00000 is the interrupt controllers'",
        ),
        ("<0x0 0xfe000000>", "<0x0 0xfed00000>", "fine"),
        ("access = \"read-write\";", "", "22: MEMORY: access is missing"),
        ("\"read-write\"", "\"rw\"", "28: MEMORY: access is \"rw\", not read-only or read-write"),
        (
            "access = \"read-write\";\n                    dma = \"none\";",
            "access = \"read-write\";",
            "22: MEMORY: dma is missing",
        ),
        (
            "access = \"read-write\";\n                    dma = \"none\"",
            "access = \"read-write\"; dma = \"perhaps\"",
            "28: MEMORY: dma is \"perhaps\", not none or reaches-all-memory",
        ),
        ("ports = <0x402 2>;", "", "31: PORTS: ports is missing"),
        ("<0x402 2>", "<0x402>", bad),
        ("<0x402 2>", "<0x402 0>", bad),
        ("<0x402 2>", "<0xffff 2>", bad),
        ("<0x402 2>", "<0x402 0xffffffff>", bad),
        ("<0x402 2>", "<0x502 1>", "34: PORTS: the node's name says 402, its first port is 502"),
        (
            "<0x402 2>",
            "<0xcfe 4>",
            "34: PORTS: ports 0xcfe to 0xd01: 0xcf8 to 0xcff are PCI configuration's",
        ),
        (
            "<0x402 2>",
            "<0x3f0 9>",
            "34: PORTS: ports 0x3f0 to 0x3f8: 0x3f6 to 0x3f6 are a disk controller's",
        ),
        (
            "ports = <0x402 2>;\n                    dma = \"none\";",
            "ports = <0x402 2>;",
            "31: PORTS: dma is missing",
        ),
        (
            "ports = <0x402 2>;",
            "ports = <0x402 2>; size = <1>;",
            "34: PORTS: unknown property size",
        ),
        (
            "debug@402",
            "de.bug@402",
            "31: /guests/one/aspace/de.bug@402: a name is 1 to 15 of 0-9 A-Z a-z _ -",
        ),
        (
            "debug@402 {",
            &unit("ports = <0x403 1>;"),
            "35: /guests/one/aspace/other@402: ports 0x402 to 0x403: /guests/one/aspace/debug has some of it",
        ),
        ("debug@402 {", &unit("ports = <0x401 1>;"), "fine"),
        (
            "debug@402 {",
            &unit("ports = <0x8a 2>;"),
            "31: /guests/one/aspace/debug: ports 0x8a to 0x8b are the DMA controllers', IOMMU",
        ),
    ];
    let text = good();
    for (number, (from, to, wanted)) in (1200..).zip(cases) {
        let wanted = match wanted.strip_suffix("IOMMU") {
            Some(words) => format!("{words}{iommu}"),
            None => (*wanted).to_string(),
        };
        let wanted = if wanted.starts_with("PORTS") { format!("34: {wanted}") } else { wanted };
        let wanted = wanted
            .replace("MEMORY:", &format!("{memory}:"))
            .replace("PORTS:", &format!("{ports}:"));
        let wanted = if wanted == "fine" { wanted } else { format!("manifest: FILE:{wanted}") };
        assert_eq!(judged_text(number, &text, from, to), wanted, "{from} -> {to}");
    }
    let said = text.replace("<0x402 2>", "<0x8a 2>").replace("debug@402", "debug");
    let allowed = said.replace(
        "ports = <0x8a 2>;\n                    dma = \"none\"",
        "ports = <0x8a 2>; dma = \"reaches-all-memory\"",
    );
    assert_eq!(judged_text(1260, &allowed, "", ""), "fine");
    let nine: String = (0..9).map(|n| format!("p{n} {{ type = \"real\"; kind = \"host-ports\"; ports = <{} 1>; dma = \"none\"; }};\n", 0x500 + n)).collect();
    let said = judged_text(1261, &text, "debug@402 {", &format!("{nine}debug@402 {{"));
    assert_eq!(said, "manifest: FILE:39: /guests/one/aspace/p8: more than 8 nodes of ports");
}

#[test]
fn two_guests_cannot_have_the_same_of_the_machine() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let good = good();
    let place = "        one {";
    let guest = good.split_once(place).unwrap().1.split_once("\n        };").unwrap().0;
    let two = |guest: &str| {
        format!("        two {{{}\n        }};\n{place}", guest.replace("autostart;", ""))
    };
    let said = judged_text(1270, &good, place, &two(guest));
    assert_eq!(
        said,
        "manifest: FILE:66: /guests/one/aspace/timer@d0000000: host-address 0xfe000000 to 0xfe001000: /guests/two/aspace/timer@d0000000 has some of it"
    );
    let elsewhere = guest.replace("0xfe000000", "0xfe001000");
    let said = judged_text(1271, &good, place, &two(&elsewhere));
    assert_eq!(
        said,
        "manifest: FILE:73: /guests/one/aspace/debug@402: ports 0x402 to 0x403: /guests/two/aspace/debug@402 has some of it"
    );
    let elsewhere = elsewhere.replace("0x402 2", "0x404 2").replace("debug@402", "debug@404");
    assert_eq!(judged_text(1272, &good, place, &two(&elsewhere)), "fine");
}

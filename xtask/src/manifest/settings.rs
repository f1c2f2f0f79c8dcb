//! The refusals of `/host` and `/vmm`, each with its exact words.

use super::tests::{GOOD, judged_text};

#[test]
fn each_refusal_about_the_machine_names_file_line_and_reason() {
    if !driver::process::on_path("dtc") {
        return;
    }
    let good = GOOD.replacen("cpus = <0 1>;", "cpus = <0>;", 1);
    let host = "host { };";
    let cases: &[(&str, &str)] = &[
        ("vmm { };", "fine"),
        ("host { cpus = <1>; };", "fine"),
        ("host { cpus = <1>; memory = <1>; };", "4: /host: unknown property memory"),
        ("host { cpus; };", "4: /host: cpus is not one or more cells"),
        ("host { cpus = <1 1>; };", "4: /host: cpus has 1: each once, 0 to 63"),
        ("host { cpus = <64>; };", "4: /host: cpus has 64: each once, 0 to 63"),
        ("host { cpus = <2>; };", "4: /host: cpus names CPU 2; the machine has 2"),
        (
            "host { cpus = <0>; };",
            "11: /guests/one/vcpus: cpus names CPU 0, which /host keeps for the root task",
        ),
        ("vmm { console = \"one\"; silent-s = <60>; stop-ms = <500>; };", "fine"),
        ("vmm { console = \"\"; };", "fine"),
        (
            "vmm { console = \"two\"; };",
            "4: /vmm: console is \"two\", and no guest of this name starts at boot",
        ),
        ("vmm { console = <1>; };", "4: /vmm: console is not one string"),
        ("vmm { silent-s = <86401>; };", "4: /vmm: silent-s is 86401, not 1 to 86400"),
        ("vmm { stop-ms = <99>; };", "4: /vmm: stop-ms is 99, not 100 to 60000"),
        ("vmm { stop-ms = <60001>; };", "4: /vmm: stop-ms is 60001, not 100 to 60000"),
        ("vmm { stop-s = <1>; };", "4: /vmm: unknown property stop-s"),
        ("vmm { one { }; };", "4: /vmm/one: unknown node"),
    ];
    for (number, (to, wanted)) in (1300..).zip(cases) {
        let wanted =
            if *wanted == "fine" { "fine".into() } else { format!("manifest: FILE:{wanted}") };
        assert_eq!(judged_text(number, &good, host, to), wanted, "{to}");
    }
    let anywhere = good.replacen("cpus = <0>;", "", 1);
    assert_eq!(
        judged_text(1350, &anywhere, host, "host { cpus = <0 1>; };"),
        "manifest: FILE:4: /host: cpus keeps all 2 of the machine: guests have none"
    );
    let later = good.replacen("autostart;", "", 1);
    assert_eq!(
        judged_text(1351, &later, host, "vmm { console = \"one\"; };"),
        "manifest: FILE:4: /vmm: console is \"one\", and no guest of this name starts at boot"
    );
}

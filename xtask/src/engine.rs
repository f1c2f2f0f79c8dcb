//! Decides which emulator plays the machine, and says why.

use crate::image;
use anyhow::{Result, bail};
use driver::emulator::Engine;
use driver::process::on_path;
use std::fs;
use std::path::Path;

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offers {
    /// `qemu-system-x86_64` is there.
    pub qemu: bool,
    /// `bochs` is there.
    pub bochs: bool,
    /// An ISO can be made.
    pub grub: bool,
    /// Why KVM cannot be used for us, if it cannot.
    pub no_kvm: Option<String>,
}

impl Offers {
    /// Looks around.
    pub fn here() -> Self {
        Self {
            qemu: on_path("qemu-system-x86_64"),
            bochs: on_path("bochs"),
            grub: image::grub_ready(),
            no_kvm: why_no_kvm(),
        }
    }

    /// The engine for `--engine auto`, and why.
    pub fn choose(&self) -> Result<(Engine, String)> {
        match (&self.no_kvm, self.qemu, self.bochs && self.grub) {
            (None, true, _) => Ok((Engine::Kvm, "nested virtualization is on".to_string())),
            (Some(why), true, _) => {
                Ok((Engine::Qemu, format!("it emulates SVM and is fast; no KVM: {why}")))
            }
            (_, false, true) => Ok((Engine::Bochs, "there is no QEMU".to_string())),
            (_, false, false) => bail!(
                "no emulator: QEMU, or Bochs with the GRUB tools, is needed; \
                 `cargo xtask setup` installs both"
            ),
        }
    }
}

/// KVM serves us only with nested virtualization; that `/dev/kvm` opens proves nothing.
fn why_no_kvm() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flag = |name: &str| cpuinfo.split_whitespace().any(|word| word == name);
    let module = match (flag("vmx"), flag("svm")) {
        (true, _) => "kvm_intel",
        (_, true) => "kvm_amd",
        _ => return Some("the processor shows neither vmx nor svm".to_string()),
    };
    let nested = fs::read_to_string(format!("/sys/module/{module}/parameters/nested"));
    if !nested.is_ok_and(|text| matches!(text.trim(), "Y" | "1")) {
        return Some(format!("nested virtualization is off in {module}"));
    }
    let device = Path::new("/dev/kvm");
    let opens = fs::OpenOptions::new().read(true).write(true).open(device);
    opens.err().map(|error| format!("/dev/kvm: {error}"))
}

/// `--engine WORD`; `None` means `auto`.
pub fn parse(word: &str) -> Result<Option<Engine>> {
    match word {
        "auto" => Ok(None),
        "bochs" => Ok(Some(Engine::Bochs)),
        "qemu" => Ok(Some(Engine::Qemu)),
        "kvm" => Ok(Some(Engine::Kvm)),
        _ => bail!("--engine {word}: there are auto, bochs, qemu and kvm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(qemu: bool, bochs: bool, kvm: bool) -> Offers {
        let no_kvm = (!kvm).then(|| "off".to_string());
        Offers { qemu, bochs, grub: true, no_kvm }
    }

    #[test]
    fn the_fast_engine_comes_first() {
        assert_eq!(offers(true, true, false).choose().unwrap().0, Engine::Qemu);
        assert_eq!(offers(true, true, true).choose().unwrap().0, Engine::Kvm);
        assert_eq!(offers(false, true, false).choose().unwrap().0, Engine::Bochs);
        assert!(offers(false, false, true).choose().is_err());
        assert!(Offers { grub: false, ..offers(false, true, false) }.choose().is_err());
    }

    #[test]
    fn an_unknown_engine_is_named() {
        assert!(parse("xen").unwrap_err().to_string().contains("xen"));
        assert_eq!(parse("auto").unwrap(), None);
    }
}

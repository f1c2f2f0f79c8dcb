//! Puts kernel and boot modules together: a bootable ISO, or a folder for QEMU's own loader.

use crate::build::ELF32;
use crate::desk;
use crate::elf::Elf;
use crate::progress::Step;
use crate::tools;
use anyhow::{Context, Result, bail};
use driver::emulator::Boot;
use driver::process::on_path;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A boot module. The first word of its command line is its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, see [`check_name`].
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// Arguments that follow the name.
    pub args: String,
}

impl Module {
    /// A module without arguments.
    pub fn new(name: &str, file: PathBuf) -> Self {
        Self { name: name.to_string(), file, args: String::new() }
    }

    /// `--module FILE[:name]`; without a name it is the file's.
    pub fn parse(option: &str) -> Result<Self> {
        let whole = Path::new(option);
        let (path, name) = match option.rsplit_once(':') {
            Some((path, name)) if !whole.exists() => (Path::new(path), name.to_string()),
            _ => {
                let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
                (whole, name.unwrap_or_default())
            }
        };
        let file = desk::given(path, "--module")?;
        check_name(&name).with_context(|| format!("--module {option}"))?;
        Ok(Self::new(&name, file))
    }
}

/// A module name: 1 to 31 characters of `a-z A-Z 0-9 . _ -` (docs/manifest.md).
pub fn check_name(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 31 || !name.bytes().all(fits) {
        bail!("module name '{name}': 1 to 31 characters of a-z A-Z 0-9 . _ - are allowed");
    }
    Ok(())
}

/// What one machine boots.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The kernel, ELF64.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// Modules in order; the first is the root task.
    pub modules: Vec<Module>,
    /// GRUB hands over by multiboot 1, and the kernel is the ELF32.
    pub multiboot1: bool,
    /// The lowest physical address at which GRUB may put the kernel; 0 for what the kernel says.
    pub load_at: u32,
}

impl Recipe {
    /// Our kernel with these modules.
    pub fn new(cmdline: &str, modules: Vec<Module>) -> Result<Self> {
        Ok(Self {
            kernel: desk::out()?.join("hematite.elf64"),
            cmdline: cmdline.to_string(),
            modules,
            multiboot1: false,
            load_at: 0,
        })
    }

    /// Refuses what could not start, before anything does.
    pub fn check(&self) -> Result<()> {
        let mut names: Vec<_> = self.modules.iter().map(|module| module.name.as_str()).collect();
        names.sort_unstable();
        if let Some([twice, _]) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            bail!("two boot modules are named '{twice}'");
        }
        if let Some(root) = self.modules.first() {
            let file = fs::read(&root.file)
                .with_context(|| format!("root task {}", root.file.display()))?;
            let elf =
                Elf::read(&file).with_context(|| format!("root task {}", root.file.display()))?;
            if elf.kind != 2 {
                bail!(
                    "root task {}: ELF type {}, not 2 (executable)",
                    root.file.display(),
                    elf.kind
                );
            }
        }
        Ok(())
    }

    /// The menu GRUB reads.
    pub fn grub_cfg(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from(
            "set timeout=0\nset default=0\nserial --unit=0 --speed=115200\n\
             terminal_input console serial\nterminal_output console\n\n\
             menuentry \"Hematite\" {\n",
        );
        let (kernel, module_word) =
            if self.multiboot1 { ("multiboot", "module") } else { ("multiboot2", "module2") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {kernel} /boot/{} {}", self.image(), quoted(&self.cmdline));
        for module in &self.modules {
            let words = quoted(&format!("{} {}", module.name, module.args));
            let _ = writeln!(text, "    {module_word} /boot/{} {words}", module.name);
        }
        // A BIOS machine shows the log as text; UEFI machines have pixels only.
        text.push_str(
            "    if [ \"$grub_platform\" = efi ]; then insmod all_video; else set gfxpayload=text; fi\n",
        );
        text.push_str("    boot\n}\n");
        text
    }

    /// The kernel's file in the image.
    fn image(&self) -> &'static str {
        if self.multiboot1 { ELF32 } else { "hematite.elf64" }
    }

    /// Makes the ISO for BIOS and UEFI machines, and says so.
    pub fn iso(&self, out: &Path) -> Result<()> {
        let step = Step::new("image");
        self.iso_quietly(out)?;
        let bytes = fs::metadata(out).map_or(0, |data| data.len());
        step.finish(&format!("{} ({} MiB)", out.display(), bytes >> 20));
        Ok(())
    }

    /// Makes the ISO.
    pub fn iso_quietly(&self, out: &Path) -> Result<()> {
        tools::need("grub-mkrescue", "grub-common")?;
        tools::need("xorriso", "xorriso")?;
        tools::need("mformat", "mtools")?;
        let name = out.file_name().context("the image needs a file name")?;
        let stage = desk::out_dir("stage")?.join(name);
        let _ = fs::remove_dir_all(&stage);
        let boot = stage.join("boot");
        fs::create_dir_all(boot.join("grub"))
            .with_context(|| format!("cannot make {}", boot.display()))?;
        fs::write(boot.join("grub/grub.cfg"), self.grub_cfg())?;
        let kernel = boot.join(self.image());
        if self.multiboot1 {
            copy(&self.kernel.with_file_name(ELF32), &kernel)?;
        } else if self.load_at == 0 {
            copy(&self.kernel, &kernel)?;
        } else {
            let mut image = fs::read(&self.kernel)?;
            load_from(&mut image, self.load_at)?;
            fs::write(&kernel, image)?;
        }
        for module in &self.modules {
            copy(&module.file, &boot.join(&module.name))?;
        }
        let mut mkrescue = Command::new("grub-mkrescue");
        mkrescue.arg("-o").arg(out).arg(&stage).args(["--compress=no"]);
        // A few modules are enough for this menu, and BIOS machines in Bochs load each one slowly.
        tools::output(&mut mkrescue)?;
        let _ = fs::remove_dir_all(&stage);
        Ok(())
    }

    /// Lays the modules out for QEMU's own loader, which hands each module's file name as the
    /// first word of its command line: so each file is named as its module is.
    pub fn direct(&self, dir: &Path) -> Result<Boot> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for module in &self.modules {
            std::os::unix::fs::symlink(&module.file, dir.join(&module.name))
                .with_context(|| format!("cannot link {}", module.name))?;
        }
        let words = self.modules.iter().map(|m| format!("{} {}", m.name, m.args));
        Ok(Boot::Direct {
            kernel: self.kernel.with_file_name(ELF32),
            dir: dir.to_path_buf(),
            modules: words.map(|words| words.trim_end().to_string()).collect(),
            cmdline: self.cmdline.clone(),
        })
    }
}

/// Changes the lowest load address in the relocatable tag of a Multiboot 2 header (specification 2.0, 3.1.11).
fn load_from(image: &mut [u8], address: u32) -> Result<()> {
    /// Type 10, flags 0, 24 bytes.
    const TAG: [u8; 8] = [10, 0, 0, 0, 24, 0, 0, 0];
    /// The header lies in the first 32 KiB of the image (3.1).
    const HEADER: usize = 32 * 1024;
    let head = image.get(..HEADER.min(image.len())).unwrap_or_default();
    let at = head.windows(TAG.len()).position(|bytes| bytes == TAG);
    let at = at.context("the kernel has no relocatable tag")? + TAG.len();
    let field = image.get_mut(at..at + 4).context("the kernel's relocatable tag is cut off")?;
    field.copy_from_slice(&address.to_le_bytes());
    Ok(())
}

/// Makes a CD from which GRUB boots Linux without us.
pub fn linux_iso(out: &Path, kernel: &Path, initrd: &Path, cmdline: &str) -> Result<()> {
    tools::need("grub-mkrescue", "grub-common")?;
    tools::need("xorriso", "xorriso")?;
    tools::need("mformat", "mtools")?;
    let name = out.file_name().context("the image needs a file name")?;
    let stage = desk::out_dir("stage")?.join(name);
    let _ = fs::remove_dir_all(&stage);
    fs::create_dir_all(stage.join("boot/grub"))?;
    let menu = format!(
        "set timeout=0\nset default=0\nmenuentry \"Linux\" {{\n    linux /boot/kernel {}\n    \
         initrd /boot/initrd\n    boot\n}}\n",
        quoted(cmdline)
    );
    fs::write(stage.join("boot/grub/grub.cfg"), menu)?;
    copy(kernel, &stage.join("boot/kernel"))?;
    copy(initrd, &stage.join("boot/initrd"))?;
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.arg("-o").arg(out).arg(&stage).args(["--compress=no"]);
    tools::output(&mut mkrescue)?;
    let _ = fs::remove_dir_all(&stage);
    Ok(())
}

/// Whether an ISO can be made here.
pub fn grub_ready() -> bool {
    ["grub-mkrescue", "xorriso", "mformat"].into_iter().all(on_path)
        && Path::new("/usr/lib/grub/i386-pc").is_dir()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Words for GRUB's shell: anything beyond plain characters is quoted, word by word.
fn quoted(words: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-=/,:+".contains(&b);
    let each = words.split_whitespace().map(|word| {
        if word.bytes().all(plain) {
            word.to_string()
        } else {
            format!("'{}'", word.replace('\'', ""))
        }
    });
    each.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(names: &[&str]) -> Recipe {
        let module = |name: &&str| Module::new(name, PathBuf::from(name));
        Recipe {
            kernel: PathBuf::from("k"),
            cmdline: "serial kmem=32M".to_string(),
            modules: names.iter().map(module).collect(),
            multiboot1: false,
            load_at: 0,
        }
    }

    #[test]
    fn the_menu_names_each_module_by_its_first_word() {
        let text = recipe(&["root", "vmm"]).grub_cfg();
        assert!(text.contains("multiboot2 /boot/hematite.elf64 serial kmem=32M\n"));
        assert!(text.contains("module2 /boot/root root\n    module2 /boot/vmm vmm\n"));
        assert!(text.contains("timeout=0"));
    }

    #[test]
    fn words_cannot_break_out_of_the_menu() {
        assert_eq!(quoted("a=1 $x;y 'z"), "a=1 '$x;y' 'z'");
    }

    #[test]
    fn multiboot_1_has_words_and_an_image_of_its_own() {
        let text = Recipe { multiboot1: true, ..recipe(&["root"]) }.grub_cfg();
        assert!(text.contains("multiboot /boot/hematite.elf32 serial"));
        assert!(text.contains("module /boot/root root\n"));
    }

    #[test]
    fn the_load_address_is_changed_in_its_tag() {
        let mut image = vec![7; 100];
        image.extend([10, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0x20, 0]);
        load_from(&mut image, 0x400_0000).unwrap();
        assert_eq!(image[108..], [0, 0, 0, 4]);
        assert!(load_from(&mut [0; 50], 1).is_err());
    }

    #[test]
    fn twin_names_are_refused() {
        let error = recipe(&["kernel", "kernel"]).check().unwrap_err();
        assert!(error.to_string().contains("'kernel'"));
    }

    #[test]
    fn module_names_are_checked() {
        for bad in ["", "a b", "a/b", "0123456789012345678901234567890x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("bzImage-6.1_x").is_ok());
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = Module::parse("no/such/file:x").unwrap_err();
        assert!(format!("{error:#}").contains("no/such/file"));
    }
}

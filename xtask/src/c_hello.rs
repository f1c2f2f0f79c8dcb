//! The C hello: a root program that knows only `abi/include/hematite.h`.

use crate::desk;
use crate::progress::Step;
use crate::tools;
use anyhow::Result;
use driver::process::on_path;
use std::process::Command;

/// Its name in stories; its file is `hello-c.elf`.
pub const NAME: &str = "hello-c";

/// Compilers that understand the options, the one a machine calls its own first.
const COMPILERS: &[&str] = &["cc", "gcc", "clang"];

/// The compiler to use, or why there is none.
///
/// # Errors
/// The reason, for a line of its own.
pub fn compiler() -> Result<&'static str, String> {
    let found = COMPILERS.iter().find(|name| on_path(name));
    found.copied().ok_or_else(|| format!("no C compiler ({})", COMPILERS.join(", ")))
}

/// Builds it into `target/hematite`; prints a line and leaves nothing when there is no compiler.
pub fn build() -> Result<()> {
    let out = desk::out()?.join(format!("{NAME}.elf"));
    let compiler = match compiler() {
        Ok(compiler) => compiler,
        Err(why) => {
            // An old one would pass for a new one.
            let _ = std::fs::remove_file(&out);
            eprintln!("  skip  build {NAME}: {why}");
            return Ok(());
        }
    };
    let step = Step::new(format!("build {NAME}"));
    let mut command = Command::new(compiler);
    command.current_dir(desk::root());
    command.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    command.args(["-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie"]);
    // No signals here, but the kernel may write nothing below the stack pointer either way; no
    // canaries, no vector registers in start-up code, Intel's syntax as in the rest of the tree.
    command.args(["-mno-red-zone", "-fno-stack-protector", "-fcf-protection=none", "-masm=intel"]);
    command.args(["-Wl,-T,user/rt/user.ld", "-Wl,--build-id=none", "-Iabi/include"]);
    command.args(["tests/hello-c/start.S", "tests/hello-c/hello.c", "-o"]).arg(&out);
    tools::output(&mut command)?;
    step.finish(&format!("target/hematite/{NAME}.elf"));
    Ok(())
}

//! Hands the linker script to the linker, for the bare-metal image only.

fn main() {
    println!("cargo::rerun-if-changed=multiboot.ld");
    println!("cargo::rerun-if-changed=build.rs");
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|name| name == "none");
    if let (true, Ok(folder)) = (bare_metal, std::env::var("CARGO_MANIFEST_DIR")) {
        println!("cargo::rustc-link-arg-bins=-T{folder}/multiboot.ld");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}

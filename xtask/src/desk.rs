//! Where things lie: the checkout, what is built, what is cached.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The top folder of the checkout.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// `target/hematite`: what `build` and `image` leave. Made if missing.
pub fn out() -> Result<PathBuf> {
    made(root().join("target/hematite"))
}

/// A folder under `target/hematite`, made if missing.
pub fn out_dir(name: &str) -> Result<PathBuf> {
    made(out()?.join(name))
}

/// Downloaded packages and what is extracted from them; outside the checkout, made if missing.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    made(
        base.context("neither XDG_CACHE_HOME nor HOME is set: no place for a cache")?
            .join("hematite"),
    )
}

/// A file the user named; it must be there and readable.
pub fn given(path: &Path, option: &str) -> Result<PathBuf> {
    match fs::metadata(path) {
        Ok(data) if data.is_file() => Ok(std::path::absolute(path)?),
        Ok(_) => bail!("{option} {}: this is not a file", path.display()),
        Err(error) => bail!("{option} {}: {error}", path.display()),
    }
}

fn made(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Writes a file only when its content changes, so that what is built from it stays fresh.
/// True if it was written.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    // Written beside and renamed: a reader at the same time sees the old file or the new one.
    let partial = path.with_extension(format!("partial-{:?}", std::thread::current().id()));
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

//! Evaluates AML for the root task, once: order in, answer out (`root::evaluation`).
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod pages;

#[cfg(target_os = "none")]
rt::entry!(start);

/// The first function.
#[cfg(target_os = "none")]
fn start(_: rt::Boot) {
    use root::evaluation::{Answer, Order};
    rt::last_words::afterwards(|| pages::answer(&Answer::crashed()));
    pages::extend_heap();
    let bytes = pages::order();
    let answer = Order::decode(&bytes).map(|order| aml::evaluate(&order).encode());
    match answer {
        Some(words) => pages::answer(&words),
        None => pages::answer(&Answer::crashed()),
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}

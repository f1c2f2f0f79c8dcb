//! The system calls, each as abi.md has it, on a machine made of arrays.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod exceptions;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod ipc;
#[cfg(test)]
mod known_failures;
#[cfg(test)]
mod life;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod microcode;
#[cfg(test)]
mod model;
#[cfg(test)]
mod random;
#[cfg(test)]
mod sleep;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tags;
#[cfg(test)]
mod told;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod walks;
#[cfg(test)]
mod world;

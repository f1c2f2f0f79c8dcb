/* The binary interface of Hematite: API version 10 and our additions from call 64 up.
 *
 * Made by `cargo xtask header` from the crate `abi`; do not edit. The meaning of each call and field is in docs/spec.
 * C11, C++11 or newer; a 64-bit x86 compiler with GNU inline assembly for hem_syscall.
 */
#ifndef HEMATITE_H
#define HEMATITE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HEM_ASSERT static_assert
extern "C" {
#else
#define HEM_ASSERT _Static_assert
#endif

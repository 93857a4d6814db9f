//! The guest as a program of its own: start code, what the compiler expects of a C library, what happens on a panic. The rest is `guest.rs`.

#![no_std]
#![no_main]

// Only what the guest uses of them is in the image.
#[allow(dead_code)]
#[path = "../src/choose.rs"]
mod choose;
#[allow(dead_code)]
#[path = "../src/format.rs"]
mod format;
#[path = "guest.rs"]
mod guest;

core::arch::global_asm!(include_str!("start.s"), options(att_syntax));

/// Where `start.s` jumps to, in 64-bit mode, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn pulse_main() -> ! {
    guest::run()
}

/// Where `start.s` leads every exception of the processor.
#[unsafe(no_mangle)]
extern "C" fn pulse_fault() -> ! {
    guest::stop(0, format::Stop::Fault)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    guest::stop(0, format::Stop::Panic)
}

// The compiler calls these for copies and the like. Strings instructions, because a loop would be compiled to a call of itself.
core::arch::global_asm!(
    ".text",
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    "memcpy: movq %rdi, %rax; movq %rdx, %rcx; rep movsb; ret",
    "memmove: movq %rdi, %rax; movq %rdx, %rcx; movq %rdi, %r8; subq %rsi, %r8; cmpq %rdx, %r8; jb 1f",
    "rep movsb; ret",
    "1: leaq -1(%rdi,%rdx), %rdi; leaq -1(%rsi,%rdx), %rsi; std; rep movsb; cld; ret",
    "memset: movq %rdi, %r8; movl %esi, %eax; movq %rdx, %rcx; rep stosb; movq %r8, %rax; ret",
    "memcmp:",
    "bcmp: xorl %eax, %eax; movq %rdx, %rcx; testq %rcx, %rcx; jz 1f; repe cmpsb; jz 1f",
    "movzbl -1(%rdi), %eax; movzbl -1(%rsi), %ecx; subl %ecx, %eax",
    "1: ret",
    options(att_syntax)
);

//! The machine beside its PCI devices: ports, serial line, time, interrupts. What a PC has had since 1984.

use core::arch::asm;

/// The serial port's registers.
const SERIAL: u16 = 0x3f8;
/// What the timer counts in a second.
const TIMER_HZ: u64 = 1_193_182;
/// The timer's longest count: 54.9 ms.
const TIMER_MAX: u64 = 0xffff;
/// How long the processor's clock is measured against the timer at a time: 5 ms.
const MEASURE: u64 = TIMER_HZ / 200;
/// How long a byte may wait for the serial port, in looks: a port that nobody empties must not stop the guest.
const SERIAL_LOOKS: u32 = 10_000;

/// Where QEMU's firmware puts ACPI's PM1 registers on both of its boards (`PORT_ACPI_PM_BASE` of `SeaBIOS`): status, enable and control, at 0, 2 and 4.
const PM1: u16 = 0x600;
/// `PWRBTN_STS` and `PWRBTN_EN` (ACPI 6.5, 4.8.3.1): the power button.
const POWER_BUTTON: u16 = 1 << 8;
/// `SLP_EN` (ACPI 6.5, 4.8.3.2) with the type 0, which is off on both boards.
const OFF: u16 = 1 << 13;
/// What is read where nothing is.
const NOTHING: u16 = 0xffff;

pub(super) fn out8(port: u16, value: u8) {
    // SAFETY: this is the only program of the machine; its devices are told nothing but what they are specified to take.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

pub(super) fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`. Not `nomem`: what a device reads after it was told must be in memory before.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

pub(super) fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

pub(super) fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

pub(super) fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as in `out8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) }
    value
}

pub(super) fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `out8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) }
    value
}

/// The processor's count of its own clock.
pub(super) fn clock() -> u64 {
    // SAFETY: every processor with 64 bits has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// 115200 baud, 8 bits, no parity, no interrupts.
pub(super) fn prepare_serial() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0), (4, 3)] {
        out8(SERIAL + register, value);
    }
}

/// Says a line; gives it up at the first byte that the port does not take.
pub(super) fn say(line: &[u8]) {
    for byte in line {
        if !(0..SERIAL_LOOKS).any(|_| in8(SERIAL + 5) & 0x20 != 0) {
            return;
        }
        out8(SERIAL, *byte);
    }
}

/// Has a press of the power button noted: QEMU notes none that nobody asked for.
pub(super) fn prepare_power_button() {
    out16(PM1, POWER_BUTTON);
    out16(PM1 + 2, POWER_BUTTON);
}

/// Whether it was pressed.
pub(super) fn is_power_button_pressed() -> bool {
    let status = in16(PM1);
    status != NOTHING && status & POWER_BUTTON != 0
}

/// Switches the machine off.
pub(super) fn power_off() -> ! {
    out16(PM1 + 4, OFF);
    halt()
}

/// Stands still.
pub(super) fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing comes after it, which is what is wanted.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// The processor's ticks in a millisecond, measured against the timer. Whatever takes the processor away meanwhile makes it seem faster: so
/// the slowest of several counts.
pub(super) fn clock_per_ms() -> u64 {
    let measured = (0..4).map(|_| {
        let gate = in8(0x61) & !3;
        out8(0x61, gate);
        out8(0x43, 0xb0);
        out8(0x42, MEASURE as u8);
        out8(0x42, (MEASURE >> 8) as u8);
        let from = clock();
        out8(0x61, gate | 1);
        while in8(0x61) & 0x20 == 0 {}
        clock().wrapping_sub(from)
    });
    (measured.min().unwrap_or(0) * TIMER_HZ / MEASURE / 1000).max(1)
}

#[repr(C, packed)]
struct IdtPointer {
    limit: u16,
    base: u64,
}

/// Of two words a gate.
static mut IDT: [[u64; 2]; 48] = [[0; 2]; 48];

unsafe extern "C" {
    fn pulse_irq();
    fn pulse_exception();
}

fn gate(handler: unsafe extern "C" fn()) -> [u64; 2] {
    let at = handler as usize as u64;
    // An interrupt gate, present, to the code segment of 64 bits.
    [at & 0xffff | 24 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48, at >> 32]
}

/// Makes exceptions end in a word, and the timer and these devices' interrupts wake the processor.
pub(super) fn prepare_interrupts(lines: impl Iterator<Item = u8>) {
    let mut table = [gate(pulse_exception); 48];
    for entry in table.iter_mut().skip(32) {
        *entry = gate(pulse_irq);
    }
    let idt = &raw mut IDT;
    let pointer = IdtPointer { limit: (size_of::<[[u64; 2]; 48]>() - 1) as u16, base: idt as u64 };
    // SAFETY: interrupts are off, and there is one processor: nobody else looks at the table, which lives for ever.
    unsafe {
        idt.write(table);
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags));
    }
    // Timer and cascade, and the devices.
    let wanted = lines.filter(|line| *line < 16).fold(1 << 0 | 1 << 2, |mask: u16, line| mask | 1 << line);
    for (port, value) in
        [(0x20, 0x11), (0xa0, 0x11), (0x21, 32), (0xa1, 40), (0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1)]
    {
        out8(port, value);
    }
    out8(0x21, !(wanted as u8));
    out8(0xa1, !((wanted >> 8) as u8));
}

/// Halts until an interrupt, for so many milliseconds and 54 at most. Interrupts are off before and after: one that came before
/// the halt ends it.
pub(super) fn halt_for(ms: u64) {
    let count = (ms * TIMER_HZ / 1000).clamp(2, TIMER_MAX);
    out8(0x43, 0x30);
    out8(0x40, count as u8);
    out8(0x40, (count >> 8) as u8);
    // SAFETY: the interrupt's handler saves what it uses, and nothing of this program lies below the stack pointer (it is built without
    // a red zone). Not `nomem`: devices write to memory meanwhile.
    unsafe { asm!("sti", "hlt") }
}

# From the firmware's jump into the boot sector to `pulse_main` in 64-bit mode. The image is linked to where the firmware puts
# its first sector, 0x7c00; the sector loads the rest right behind itself. 0x7e00 has the parameters, 0x8000 the last run.

    .section .boot, "awx", @progbits
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    ljmp $0, $1f
1:  sti
    movw $packet, %si               # extended read; the drive is in %dl
    movb $0x42, %ah
    int $0x13
    jc unreadable
    cli
    inb $0x92, %al                  # addresses above one megabyte
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    lgdtl gdt_pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmp $8, $protected

unreadable:
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
2:  hlt
    jmp 2b

    .balign 4
packet:
    .byte 16, 0
    .word __rest_sectors
    .word 0x7e00, 0
    .quad 1

gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff        # 8: code, 32 bits
    .quad 0x00cf92000000ffff        # 16: data
    .quad 0x00af9a000000ffff        # 24: code, 64 bits
gdt_end:

    .code32
protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    cld
    movl $__bss_start, %edi
    movl $__bss_dwords, %ecx
    xorl %eax, %eax
    rep stosl
    movl $stack_top, %esp
    movl $pdpt + 3, pml4            # the first gigabyte, each address at itself, in pages of 2 MiB
    movl $pages + 3, pdpt
    movl $pages, %edi
    movl $0x83, %eax
    movl $512, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 3b
    movl $pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, and SSE with its exceptions
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $~4, %eax                  # SSE is there
    orl $0x80000002, %eax           # paging; monitor the coprocessor
    movl %eax, %cr0
    ljmp $24, $long_mode

    .code64
long_mode:
    xorl %ebp, %ebp
    call pulse_main

    .text
# Wakes the processor and leaves interrupts off behind itself: whoever halts gets one at a time and looks at everything.
    .globl pulse_irq
pulse_irq:
    pushq %rax
    movb $0x20, %al                 # end of interrupt, to both controllers
    outb %al, $0xa0
    outb %al, $0x20
    popq %rax
    andq $~0x200, 16(%rsp)
    iretq

    .globl pulse_exception
pulse_exception:
    movl $stack_top, %esp
    call pulse_fault

    .bss
    .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
pages: .skip 4096
    .skip 16384
stack_top:
    .text

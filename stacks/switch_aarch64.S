/*
 * switch_aarch64.S: the first instructions of a new context.
 *
 * context_switch (switch.h) branches here with sp at the stack's top, 16-byte aligned, and x1 the
 * context switched to. The undefined x30 tells every unwinder that this is the outermost frame.
 *
 * context_main is entered as by a call, but not by one: it never returns, and the return address of
 * a call would stay in the processor's return stack and spoil the next prediction.
 */
        .text
        .globl  context_entry
        .hidden context_entry
        .type   context_entry, %function
        .p2align 4
context_entry:
        .cfi_startproc
        .cfi_undefined x30
        .cfi_undefined x29
        hint    #38
        mov     x29, xzr
        adr     x30, 1f
        mov     x0, x1
        b       context_main
        nop
1:      brk     #1
        .cfi_endproc
        .size   context_entry, . - context_entry

        .section .note.GNU-stack, "", %progbits

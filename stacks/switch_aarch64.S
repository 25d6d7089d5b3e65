/*
 * switch_aarch64.S: the first instructions of a new context, and a call on another stack.
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

/*
 * context_call: x0 the new stack's top, x1 the function, x2 its argument. The old stack pointer is
 * kept in x29, which the function gives back. Unwinders end here while it runs: the frames of an
 * exception must not be looked for across the change of stacks.
 */
        .globl  context_call
        .hidden context_call
        .type   context_call, %function
        .p2align 4
context_call:
        .cfi_startproc
        hint    #34 /* bti c */
        stp     x29, x30, [sp, #-16]!
        .cfi_adjust_cfa_offset 16
        .cfi_rel_offset x29, 0
        .cfi_rel_offset x30, 8
        mov     x29, sp
        .cfi_def_cfa_register x29
        mov     sp, x0
        mov     x0, x2
        .cfi_remember_state
        .cfi_undefined x30
        blr     x1
        nop
        .cfi_restore_state
        mov     sp, x29
        ldp     x29, x30, [sp], #16
        .cfi_def_cfa sp, 0
        .cfi_restore x29
        .cfi_restore x30
        ret
        .cfi_endproc
        .size   context_call, . - context_call

        .section .note.GNU-stack, "", %progbits

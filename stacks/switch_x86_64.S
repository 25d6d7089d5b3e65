/*
 * switch_x86_64.S: the first instructions of a new context.
 *
 * context_switch (switch.h) jumps here with rsp at the stack's top, 16-byte aligned; rsi is the
 * context switched to. The undefined rip tells every unwinder that this is the outermost frame.
 *
 * context_main is entered as by a call, but not by one: it never returns, and the return address of
 * a call would stay in the processor's return stack and spoil the next prediction.
 */
        .text
        .globl  context_entry
        .hidden context_entry
        .type   context_entry, @function
        .p2align 4
context_entry:
        .cfi_startproc
        .cfi_undefined rip
        .cfi_undefined rbp
        xorl    %ebp, %ebp
        movq    %rsi, %rdi
        leaq    1f(%rip), %rax
        pushq   %rax
        .cfi_adjust_cfa_offset 8
        jmp     context_main
        nop
1:      ud2
        .cfi_endproc
        .size   context_entry, . - context_entry

        .section .note.GNU-stack, "", @progbits

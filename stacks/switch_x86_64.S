/*
 * switch_x86_64.S: the first instructions of a new context.
 *
 * context_switch (switch.h) jumps here with rsp at the stack's top, 16-byte aligned, and rsi the
 * context switched to. The undefined rip tells every unwinder that this is the outermost frame.
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
        call    context_main
        ud2
        .cfi_endproc
        .size   context_entry, . - context_entry

        .section .note.GNU-stack, "", @progbits

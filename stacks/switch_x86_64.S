/*
 * switch_x86_64.S: the first instructions of a new context, and a call on another stack.
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

/*
 * context_call: rdi the new stack's top, rsi the function, rdx its argument. The old stack pointer
 * is kept in rbp, which the function gives back. Unwinders end here while it runs: the frames of an
 * exception must not be looked for across the change of stacks.
 */
        .globl  context_call
        .hidden context_call
        .type   context_call, @function
        .p2align 4
context_call:
        .cfi_startproc
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbp, 0
        movq    %rsp, %rbp
        .cfi_def_cfa_register rbp
        movq    %rdi, %rsp
        movq    %rdx, %rdi
        .cfi_remember_state
        .cfi_undefined rip
        callq   *%rsi
        nop
        .cfi_restore_state
        movq    %rbp, %rsp
        popq    %rbp
        .cfi_def_cfa rsp, 8
        retq
        .cfi_endproc
        .size   context_call, . - context_call

        .section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: MIT */
/*
 * The last a MIPS kernel sees of its bootloader: four registers and a jump.
 *
 * It runs wherever it was put. What it loads follows it as words, which
 * first_stage.py fills in: the kernel's entry, then a0 to a3.
 */
	.set	noreorder
	.text
	.globl	__start
__start:
	bal	here
	 nop
here:
	lw	$25, words - here($31)
	lw	$4, words + 4 - here($31)
	lw	$5, words + 8 - here($31)
	lw	$6, words + 12 - here($31)
	lw	$7, words + 16 - here($31)
	jr	$25
	 nop
	.align	4
words:

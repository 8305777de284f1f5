/* SPDX-License-Identifier: MIT */
/*
 * The last a MIPS kernel sees of its bootloader: four registers and a jump.
 *
 * It runs wherever it was put.  The return address of the branch is that of
 * the words behind it, which first_stage.py fills in: the kernel's entry, then
 * a0 to a3.
 */
	.set	noreorder
	.text
	.globl	__start
__start:
	bal	1f
	 nop
	.word	0, 0, 0, 0, 0
1:
	lw	$25, 0($31)
	lw	$4, 4($31)
	lw	$5, 8($31)
	lw	$6, 12($31)
	lw	$7, 16($31)
	jr	$25
	 nop

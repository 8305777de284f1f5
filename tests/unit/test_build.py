"""What a failed build shows of its log."""

from pathlib import Path

from pytest_kernelvm.kernel.build.make import compiler_diagnostics

TREE = Path("/store/tree")
LOG = """\
  HOSTCC  scripts/dtc/libfdt/fdt_strerror.o
  CC      init/main.o
/store/tree/init/main.c:1:2: error: #error boom
    1 | #error boom
      |  ^~~~~
make[4]: *** [/store/tree/scripts/Makefile.build:234: init/main.o] Error 1
  CC      arch/arm64/kernel/cpu_errata.o
make: *** [Makefile:236: __sub-make] Error 2
"""


def test_errors_of_the_compiler_come_first() -> None:
    assert compiler_diagnostics(LOG, TREE) == (
        "init/main.c:1:2: error: #error boom",
        "    1 | #error boom",
        "      |  ^~~~~",
    )


def test_errors_of_linker_and_modpost() -> None:
    log = """\
/store/tree/net/core/x.c:10: undefined reference to `nf_hook'
ERROR: modpost: "nf_hook" [net/netfilter/y.ko] undefined!
"""
    assert compiler_diagnostics(log, TREE) == (
        "net/core/x.c:10: undefined reference to `nf_hook'",
        'ERROR: modpost: "nf_hook" [net/netfilter/y.ko] undefined!',
    )


def test_a_log_without_diagnostics() -> None:
    assert compiler_diagnostics("  CC      lib/errseq.o\nmake: *** Error 2\n", TREE) == ()

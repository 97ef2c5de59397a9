/* Start of a Cortex-M4 without an operating system: at reset the processor reads two words at address
   0, the stack pointer and where to begin. newlib's start-up code does the rest. */
void _start(void);

static void reset(void)
{
    *(volatile unsigned *)0xE000ED88u |= 0xF00000u; /* switch the floating-point unit on */
    _start();
}

__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*reset)(void);
} vectors = {(void *)0x20010000, reset};

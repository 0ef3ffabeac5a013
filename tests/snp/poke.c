// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * insmod poke.ko frame=NUMBER value=BYTE: writes the byte to the start of the page frame through the kernel's mapping
 * of all RAM, and does not stay loaded. See build-poke for how it is put together; the rest of the module is there.
 */
/* Exported by the kernel. */
extern unsigned long page_offset_base;
struct kernel_param_ops;
extern const struct kernel_param_ops param_ops_uint;

static unsigned frame, value;

/* include/linux/moduleparam.h, struct kernel_param */
struct kernel_param {
    const char *name;
    void *module;
    const struct kernel_param_ops *ops;
    unsigned short perm;
    signed char level;
    unsigned char flags;
    void *arg;
};
extern char __this_module[];

__attribute__((used, section("__param"), aligned(8))) static const struct kernel_param parameters[] = {
    { "frame", __this_module, &param_ops_uint, 0, -1, 0, &frame },
    { "value", __this_module, &param_ops_uint, 0, -1, 0, &value },
};

int init_module(void);
int init_module(void)
{
    *(volatile unsigned char *)(page_offset_base + ((unsigned long)frame << 12)) = (unsigned char)value;
    return -19; /* ENODEV: done, nothing to keep */
}

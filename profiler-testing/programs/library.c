/* A library with data and with .bss, to be loaded many times under many names. */
int initialised[2048] = {1};
int zeroed[4096];
int *of_zeroed = zeroed;

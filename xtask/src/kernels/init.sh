#!/bin/busybox sh
# PID 1 of the guest until its disk is there: loads what the kernel has as modules for that, in the order of the list.
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do
    /bin/busybox insmod "/modules/$module" || echo "insmod $module failed"
done < /modules/order
waited=0
while [ ! -b /dev/vda ] && [ $waited -lt 100 ]; do
    /bin/busybox sleep 0.1
    waited=$((waited + 1))
done
/bin/busybox mount -t ext4 /dev/vda /root || echo "the disk cannot be mounted"
for folder in proc sys dev; do
    /bin/busybox mount -o move /$folder /root/$folder
done
exec /bin/busybox switch_root /root /usr/bin/python3 -u /checks/main.py

/* Classifies three windows on a board without an operating system. Where a board has a sensor, its
   readings go into `window`. */
#include <stdio.h>

#define GESTURE_NAMES
#include "gesture.h"

static const short readings[3][GESTURE_INPUTS] = {
    {507, 509, 511, 505, 508, 512, 506, 509, 510, 507, 508, 506, 511, 509, 507, 510,
     508, 506, 509, 511, 507, 505, 510, 508, 509, 507, 511, 506, 508, 510, 509, 507},
    {508, 590, 652, 688, 694, 668, 614, 541, 463, 393, 343, 320, 329, 367, 430, 506,
     584, 648, 686, 694, 671, 618, 546, 468, 397, 345, 321, 327, 364, 425, 501, 579},
    {506, 508, 507, 509, 505, 508, 510, 507, 509, 506, 850, 360, 412, 611, 488, 466,
     542, 515, 490, 514, 512, 503, 509, 509, 506, 508, 508, 507, 509, 506, 508, 507},
};

int main(void)
{
    static float window[GESTURE_INPUTS];
    int n, k;
    for (n = 0; n < 3; n++) {
        for (k = 0; k < GESTURE_INPUTS; k++) {
            window[k] = readings[n][k];
        }
        printf("%s\n", gesture_names[gesture_classify(window)]);
    }
    return 0;
}

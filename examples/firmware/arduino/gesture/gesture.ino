/* Reads 32 values of an accelerometer at A0, 20 ms apart, and prints what was done.
   gesture.c and gesture.h, which sentei writes, belong into the folder of this sketch. */
#define GESTURE_NAMES
#include "gesture.h"

static float window[GESTURE_INPUTS];

void setup() {
  Serial.begin(115200);
}

void loop() {
  for (int k = 0; k < GESTURE_INPUTS; k++) {
    window[k] = analogRead(A0); /* as in the table: the code standardises */
    delay(20);
  }
  Serial.println(gesture_names[gesture_classify(window)]);
}
